"""Runs a command on a terminal of its own and types into it.

usage: terminal.py SCRIPT COMMAND...   SCRIPT: JSON list of [what to wait for on the screen, what to type then].
Prints everything that appeared; exits with the command's code.
"""
import json, os, pty, select, sys

steps = json.loads(sys.argv[1])
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
seen = b""
looked = 0
while True:
    ready, _, _ = select.select([terminal], [], [], 30)
    if not ready:
        sys.stdout.write(seen.decode(errors="replace"))
        sys.exit("nothing appeared for 30 s; waiting for %r" % steps[:1])
    try:
        chunk = os.read(terminal, 65536)
    except OSError:
        break
    if not chunk:
        break
    seen += chunk
    while steps:
        at = seen.find(steps[0][0].encode(), looked)
        if at < 0:
            break
        looked = at + len(steps[0][0].encode())
        os.write(terminal, steps.pop(0)[1].encode())
sys.stdout.write(seen.decode(errors="replace"))
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
