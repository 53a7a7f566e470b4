<?php
// PHP's session handler with the binary protocol: php session.php SERVERS SESSION login|read [NAME]
// SERVERS is what session.save_path says: host:port,host:port

[, $servers, $session, $action] = $argv;
ini_set('session.save_handler', 'memcached');
ini_set('session.save_path', $servers);
ini_set('session.use_cookies', '0');
ini_set('session.use_strict_mode', '0');
ini_set('session.cache_limiter', '');
ini_set('memcached.sess_binary_protocol', '1');
ini_set('memcached.sess_lock_retries', '50');
ini_set('memcached.sess_remove_failed_servers', '1');
ini_set('memcached.sess_server_failure_limit', '1');
ini_set('memcached.sess_connect_timeout', '1000');

ini_set('memcached.sess_persistent', '1');

// The first attempt may be the one in which the client learns that a server is gone.
for ($attempt = 1; session_status() !== PHP_SESSION_ACTIVE; $attempt++) {
    session_id($session);
    if (!@session_start() && $attempt === 5) {
        fwrite(STDERR, 'no session: ' . (error_get_last()['message'] ?? '') . "\n");
        exit(1);
    }
}
if ($action === 'login') {
    $_SESSION['user'] = $argv[4];
    $_SESSION['visits'] = 0;
} else {
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
}
echo ($_SESSION['user'] ?? 'nobody'), ' ', ($_SESSION['visits'] ?? '-'), "\n";
session_write_close();
