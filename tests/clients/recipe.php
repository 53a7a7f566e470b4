<?php
// Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through the client, says
// "stored", waits for a line (its server is killed and started again meanwhile), and reads everything again.
// RECIPE

// Again and again, as an application does that was asked by a user; how often it failed.
function insist(callable $action): int
{
    for ($failures = 0; $failures < 200; $failures++) {
        if ($action()) {
            return $failures;
        }
        usleep(50000);
    }
    fwrite(STDERR, "it fails for ever\n");
    exit(1);
}

for ($n = 0; $n < 100; $n++) {
    insist(fn () => $cache->set("key-$n", ['number' => $n], 3600));
}
echo "stored\n";
fgets(STDIN);
$failed = 0;
for ($n = 0; $n < 100; $n++) {
    $failed += insist(fn () => ($value = $cache->get("key-$n")) !== false);
    if ($cache->get("key-$n") !== ['number' => $n]) {
        fwrite(STDERR, "key-$n is lost\n");
        exit(1);
    }
}
$cache->set('counter', 1);
if ($cache->increment('counter') !== 2) {
    fwrite(STDERR, "the counter\n");
    exit(1);
}
echo "php $failed\n";
