"""A session over a failover: python3 pymemcache_two_nodes.py MASTER_HOST BACKUP_HOST PORT

Stores through the master, says "stored", waits for a line (the master is killed meanwhile), and goes on
with the other address, as a client does that knows both.
"""

import sys
import time

from pymemcache.client.base import Client

port = int(sys.argv[3])


def connect(host):
    return Client((host, port), timeout=10, connect_timeout=10)


master, backup = connect(sys.argv[1]), connect(sys.argv[2])
stored = {"key-%d" % index: b"value-%d" % index for index in range(300)}
assert master.set_many(stored, noreply=False) == []
master.set("counter", b"41", noreply=False)
master.set("gone", b"1", noreply=False)
assert master.delete("gone", noreply=False)
_, unique = master.gets("counter")
# The same in the meta protocol: through the backup what the master keeps.
assert backup.raw_command("ms meta 2 T300 F7 c\r\nhi").startswith(b"HD c")
assert master.raw_command("ma visits N300 J1 v", end_tokens="\r\n1\r\n") == b"VA 1"
assert master.raw_command("ms shelved 1\r\nx") == b"HD"
assert master.raw_command("md shelved I T300") == b"HD"
# The backup answers for the pair even now.
assert backup.get("key-7") == b"value-7"
print("stored", flush=True)
sys.stdin.readline()

deadline = time.monotonic() + 30
while True:
    try:
        survivor = connect(sys.argv[2])
        if survivor.set("after", b"1", noreply=False):
            break
    except Exception as error:  # The pair is between two masters.
        assert time.monotonic() < deadline, error
        time.sleep(0.02)
assert survivor.get_many(list(stored)) == stored
assert survivor.get("gone") is None
# Meta: flags, time to live, marks and numbers came over.
flags, left = survivor.raw_command("mg meta v f t", end_tokens="\r\nhi\r\n").split()[2:]
assert flags == b"f7" and 0 < int(left[1:]) <= 300
assert survivor.raw_command("ma visits v", end_tokens="\r\n2\r\n") == b"VA 1"
assert survivor.raw_command("mg shelved s") == b"HD s1 X W"
# A CAS unique of the old master is good on the new one.
assert survivor.cas("counter", b"42", unique, noreply=False) is True
assert survivor.incr("counter", 1) == 43
print("all good")
