<?php
// php-memcached, which is libmemcached: php memcached.php HOST PORT binary|text

[, $host, $port, $protocol] = $argv;
function check(bool $holds, string $what): void
{
    if (!$holds) {
        fwrite(STDERR, "not so: $what\n");
        exit(1);
    }
}
$client = new Memcached();
$client->setOption(Memcached::OPT_BINARY_PROTOCOL, $protocol === 'binary');
$client->setOption(Memcached::OPT_TCP_NODELAY, true);
check($client->addServer($host, (int) $port), 'addServer');

check($client->set('key', ['a' => 1, 'b' => [true, null]]), 'set of an array');
check($client->get('key') === ['a' => 1, 'b' => [true, null]], 'get of an array');
check($client->get('missing') === false && $client->getResultCode() === Memcached::RES_NOTFOUND, 'a miss');
check(!$client->add('key', 1) && $client->getResultCode() === Memcached::RES_NOTSTORED || $client->getResultCode() === Memcached::RES_DATA_EXISTS, 'add on a key that is there');
check(!$client->replace('missing', 1), 'replace of a missing key');
$many = [];
for ($index = 0; $index < 300; $index++) {
    $many["many-$index"] = str_repeat('v', $index);
}
check($client->setMulti($many), 'setMulti');
check($client->getMulti(array_keys($many)) == $many, 'getMulti');
check(!in_array(false, array_map(fn ($gone) => $gone === true, $client->deleteMulti(array_keys($many)))), 'deleteMulti');
check($client->set('number', 10) && $client->increment('number', 5) === 15, 'increment');
check($client->decrement('number', 100) === 0, 'decrement');
if ($protocol === 'binary') {
    check($client->increment('made', 1, 7) === 7, 'increment that creates');
}
check($client->touch('number', 100), 'touch');
$found = $client->get('number', null, Memcached::GET_EXTENDED);
check(is_array($found) && $client->cas($found['cas'], 'number', 99), 'cas');
check(!$client->cas($found['cas'], 'number', 98) && $client->getResultCode() === Memcached::RES_DATA_EXISTS, 'cas that is too late');
$client->setOption(Memcached::OPT_COMPRESSION, false);
check($client->set('text', 'b') && $client->append('text', 'c') && $client->prepend('text', 'a'), 'append and prepend');
check($client->get('text') === 'abc', 'get of what was appended');
$large = random_bytes(500000);
check($client->set('large', $large) && $client->get('large') === $large, 'a large value');
$versions = $client->getVersion();
check(str_starts_with(reset($versions), '1.6.'), 'version');
$statistics = $client->getStats();
check(isset(reset($statistics)['curr_items']), 'stats');
check($client->flush() && $client->get('text') === false, 'flush');
echo "all good\n";
