# A satellite with HiveMind's own client, which speaks with the assistant: sourced with the hub's $data.

# Makes a client of the JSON database the satellite.
choose_satellite() {
  read -r satellite_key satellite_password < <(python3 -c 'import json, sys
print(*[(c["api_key"], c["password"]) for c in json.load(open(sys.argv[1])).values() if c["name"] == sys.argv[2]][0])' \
    "$data/clients.json" "$1")
}

# Starts the satellite, and waits until the assistant has answered it.
start_satellite() {
  : >~/replies.log
  $HUB_ENVIRONMENT/bin/python "$TOOLS/satellite.py" "$satellite_key" "$satellite_password" ~/replies.log \
    >~/satellite.log 2>&1 &
  satellite=$!
  wait_for_replies
}

stop_satellite() {
  kill -KILL $satellite
  wait $satellite 2>/dev/null || true
}

# The satellite needs seconds to start, and waits five before it connects again.
wait_for_replies() {
  local tries before
  before=$(wc -l <~/replies.log)
  for tries in {1..200}; do
    (($(wc -l <~/replies.log) > before + 4)) && return
    sleep 0.3
  done
  tail -20 ~/satellite.log >&2
  echo "the satellite gets no replies" >&2
  return 1
}

# Prints the longest time without a reply so far, in seconds.
longest_pause() {
  python3 -c 'import sys
times = [float(line) for line in open(sys.argv[1])]
print(round(max(b - a for a, b in zip(times, times[1:])), 1))' ~/replies.log
}
