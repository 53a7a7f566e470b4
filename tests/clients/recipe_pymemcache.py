"""Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through the client, says
"stored", waits for a line (its server is killed and started again meanwhile), and reads everything again."""

import sys
import time

# RECIPE


def insist(action):
    """Again and again, as an application does that was asked by a user; the outcome and how often it failed."""
    for failures in range(200):
        try:
            return action(), failures
        except (OSError, MemcacheUnexpectedCloseError) as error:  # noqa: F821
            last = error
        time.sleep(0.05)
    raise last


for n in range(100):
    insist(lambda: cache.set(f"key-{n}", b"value-%d" % n, 3600, noreply=False))  # noqa: F821
print("stored", flush=True)
sys.stdin.readline()
failed = 0
for n in range(100):
    value, failures = insist(lambda: cache.get(f"key-{n}"))  # noqa: F821
    assert value == b"value-%d" % n, (n, value)
    failed += failures
print(f"pymemcache {failed}", flush=True)
