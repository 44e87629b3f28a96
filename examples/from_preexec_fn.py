"""What was done in a function for preexec_fn, as parameters and set-up steps."""

from usernsproc import check_output
from usernsproc.setup import Nice, Rlimit, Signals

# def before_exec():
#     os.setsid()
#     os.umask(0o077)
#     os.nice(10)
#     resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
#     signal.signal(signal.SIGINT, signal.SIG_IGN)
#
# subprocess.check_output(command, preexec_fn=before_exec)

command = ["sh", "-c", "umask; nice; ulimit -c; grep SigIgn: /proc/self/status"]
steps = [Nice(10), Rlimit("CORE", 0), Signals(ignore=["INT"])]
output = check_output(command, uid_map="current", start_new_session=True, umask=0o077, setup=steps)

*shown, _, ignored = output.decode().split()
assert shown == ["0077", "10", "0"]
assert int(ignored, 16) & 1 << 1  # signal 2
