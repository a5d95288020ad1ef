# What the machines of these tests wait for: sourced before their own scripts.

# The hub listens seconds after its unit is active.
wait_for_port() {
  local tries
  for tries in {1..200}; do
    (: <>/dev/tcp/127.0.0.1/5678) 2>/dev/null && return
    sleep 0.3
  done
  echo "the hub does not listen" >&2
  return 1
}

# The user types the password of the keyring.
unlock_keyring() {
  local tries
  printf private-session | as_user gnome-keyring-daemon --unlock --components=secrets >/dev/null
  for tries in {1..200}; do
    as_user busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service \
      ReadAlias s default 2>/dev/null | grep -q collection && return
    sleep 0.05
  done
  echo "the keyring did not start" >&2
  return 1
}
