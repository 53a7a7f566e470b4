"""Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through Django's cache, says
"stored", waits for a line (its server is killed and started again meanwhile), and reads everything again."""

import sys
import time

from django.conf import settings

# RECIPE
settings.configure(CACHES=CACHES)  # noqa: F821

from django.core.cache import cache


def insist(action):
    """Again and again, as an application does that was asked by a user; the outcome and how often it failed."""
    for failures in range(200):
        try:
            return action(), failures
        except OSError as error:
            last = error
        except Exception as error:
            if type(error).__module__.split(".")[0] != "pymemcache":
                raise
            last = error
        time.sleep(0.05)
    raise last


for n in range(100):
    insist(lambda: cache.set(f"key-{n}", {"number": n}, 3600))
print("stored", flush=True)
sys.stdin.readline()
failed = 0
for n in range(100):
    value, failures = insist(lambda: cache.get(f"key-{n}"))
    assert value == {"number": n}, (n, value)
    failed += failures
cache.add("counter", 1)
assert cache.incr("counter") == 2
print(f"django {failed}", flush=True)
