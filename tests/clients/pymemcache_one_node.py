"""What users of pymemcache do, against one server: python3 pymemcache_one_node.py HOST PORT"""

import sys

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

address = (sys.argv[1], int(sys.argv[2]))
client = Client(address, timeout=10, connect_timeout=10)

# Storing, reading, deleting.
assert client.set("key", b"value", noreply=False)
assert client.get("key") == b"value"
assert client.get("missing") is None
assert client.add("key", b"other", noreply=False) is False
assert client.replace("missing", b"other", noreply=False) is False
assert client.append("key", b"-end", noreply=False)
assert client.prepend("key", b"start-", noreply=False)
assert client.get("key") == b"start-value-end"
assert client.delete("key", noreply=False)
assert client.delete("key", noreply=False) is False

# Without answers, the default of pymemcache.
client.set("quiet", b"1")
client.append("quiet", b"2")
client.incr("quiet", 30, noreply=True)
assert client.get("quiet") == b"42"

# Many at once.
many = {"many-%d" % index: b"value-%d" % index for index in range(500)}
assert client.set_many(many, noreply=False) == []
assert client.get_many(list(many)) == many
assert client.delete_many(list(many), noreply=False)
assert client.get_many(list(many)) == {}

# Compare and swap.
client.set("swapped", b"1", noreply=False)
value, unique = client.gets("swapped")
assert value == b"1"
assert client.cas("swapped", b"2", unique, noreply=False) is True
assert client.cas("swapped", b"3", unique, noreply=False) is False
assert client.cas("missing", b"3", unique, noreply=False) is None

# Numbers and times.
client.set("number", b"10", noreply=False)
assert client.incr("number", 5) == 15
assert client.decr("number", 100) == 0
assert client.incr("missing", 1) is None
assert client.touch("number", expire=100, noreply=False)
assert client.touch("missing", expire=100, noreply=False) is False
assert client.raw_command("gat 0 number", end_tokens="END\r\n") == b"VALUE number 0 2\r\n0 \r\n"
assert client.set("dead", b"1", expire=-1, noreply=False)
assert client.get("dead") is None

# Large values.
large = b"x" * 1_000_000
assert client.set("large", large, noreply=False)
assert client.get("large") == large

# Meta, with raw commands.
assert client.raw_command("ms meta 2 T90 F7\r\nhi") == b"HD"
assert client.raw_command("mg meta s f t") in (b"HD s2 f7 t90", b"HD s2 f7 t89")
assert client.raw_command("mg meta v k", end_tokens="\r\nhi\r\n") == b"VA 2 kmeta"
assert client.raw_command("md meta q\r\nmn") == b"MN"
assert client.raw_command("mg meta v") == b"EN"

# What the server says of itself.
assert client.version().startswith(b"1.6.")
statistics = client.stats()
assert statistics[b"curr_items"] >= 1 and isinstance(statistics[b"threads"], int)
assert client.flush_all(noreply=False)
assert client.get("large") is None

# The other clients of the package.
pooled = PooledClient(address, max_pool_size=4)
assert pooled.set("pooled", b"1", noreply=False) and pooled.get("pooled") == b"1"
hashed = HashClient([address])
assert hashed.set("hashed", b"1", noreply=False) and hashed.get("hashed") == b"1"
print("all good")
