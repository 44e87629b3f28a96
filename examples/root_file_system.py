"""A root file system that is prepared once, and two commands in it that each have their own /tmp and /proc."""

import tempfile
from pathlib import Path

from usernsproc import UsernsProcess, check_output
from usernsproc.setup import Bind, Dev, Dir, File, Overlay, Proc, Remount, Root, Tmpfs

with tempfile.TemporaryDirectory() as data:
    Path(data, "dictionary").write_text("words\n")
    template = [
        Root("tmpfs"),
        *(Bind(path, read_only=True, missing_ok=True) for path in ("/usr", "/bin", "/lib", "/lib64")),
        File("/etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        Overlay("/data", data, "tmpfs"),  # writable, but the directory of the host does not change
        Dir("/tmp"),
        Proc(),
        Dev(),
        Remount("/"),
    ]
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid"], setup=template) as box:
        own = {"join": [(box, ("user", "mnt"))], "namespaces": ["mnt", "pid"], "setup": [Proc(), Tmpfs("/tmp")]}
        for word in "first", "second":
            script = f"echo $$; ls /tmp; echo {word} > /tmp/file; echo {word} >> /data/dictionary; cat /data/dictionary"
            shown = check_output(["sh", "-c", script], text=True, **own)
    assert shown == "1\nwords\nfirst\nsecond\n"
    assert Path(data, "dictionary").read_text() == "words\n"
