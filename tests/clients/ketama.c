/* libmemcached with ketama over several servers, in the middle of whose work one of the masters behind
 * them is killed: ketama SERVERS text|binary, SERVERS as libmemcached takes them (host:port,host:port).
 *
 * Stores everything, says "stored", waits for a line; reads and stores everything again, and says "half"
 * in the middle of it; says "done", waits for a line; then everything must be there as it was stored last. */
#include <libmemcached/memcached.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEYS = 400, PATIENCE_MS = 30000, PAUSE_MS = 20 };

static memcached_st *client;

static void fail(const char *what, int key, memcached_return_t code)
{
    fprintf(stderr, "%s of key %d: %s (%s)\n", what, key, memcached_strerror(client, code),
            memcached_last_error_message(client));
    exit(1);
}

/* Stores a generation of a key. While a master is being replaced a store may be refused: then again. */
static void store(int key, int generation)
{
    char name[32], value[64];
    int name_length = snprintf(name, sizeof name, "ketama-key-%d", key);
    int value_length = snprintf(value, sizeof value, "generation %d of %d", generation, key);
    for (int waited = 0;; waited += PAUSE_MS) {
        memcached_return_t code = memcached_set(client, name, name_length, value, value_length, 0, 7);
        if (memcached_success(code))
            return;
        if (waited >= PATIENCE_MS)
            fail("a store", key, code);
        usleep(PAUSE_MS * 1000);
    }
}

/* The generation of a key that must be there. */
static int generation_of(int key)
{
    char name[32];
    int name_length = snprintf(name, sizeof name, "ketama-key-%d", key);
    for (int waited = 0;; waited += PAUSE_MS) {
        size_t length;
        uint32_t flags;
        memcached_return_t code;
        char *value = memcached_get(client, name, name_length, &length, &flags, &code);
        if (value != NULL) {
            int generation = 0, of = 0;
            char text[64] = {0};
            memcpy(text, value, length < sizeof text ? length : sizeof text - 1);
            free(value);
            if (flags != 7 || sscanf(text, "generation %d of %d", &generation, &of) != 2 || of != key)
                fail("the value", key, code);
            return generation;
        }
        if (code == MEMCACHED_NOTFOUND || waited >= PATIENCE_MS)
            fail("a read", key, code);
        usleep(PAUSE_MS * 1000);
    }
}

static void say(const char *what)
{
    puts(what);
    fflush(stdout);
}

static void wait_for_a_line(void)
{
    char line[16];
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    client = memcached_create(NULL);
    int is_binary = strcmp(arguments[2], "binary") == 0;
    memcached_server_st *servers = memcached_servers_parse(arguments[1]);
    if (memcached_failed(memcached_behavior_set(client, MEMCACHED_BEHAVIOR_BINARY_PROTOCOL, is_binary)) ||
        memcached_failed(memcached_behavior_set(client, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1)) ||
        memcached_failed(memcached_behavior_set(client, MEMCACHED_BEHAVIOR_TCP_NODELAY, 1)) ||
        memcached_failed(memcached_behavior_set(client, MEMCACHED_BEHAVIOR_RETRY_TIMEOUT, 0)) ||
        memcached_failed(memcached_server_push(client, servers)))
        return 2;
    memcached_server_list_free(servers);

    for (int key = 0; key < KEYS; key++)
        store(key, 1);
    say("stored");
    wait_for_a_line();
    for (int key = 0; key < KEYS; key++) {
        if (generation_of(key) != 1)
            fail("the first generation", key, MEMCACHED_FAILURE);
        store(key, 2);
        if (key == KEYS / 2)
            say("half");
    }
    say("done");
    wait_for_a_line();
    /* What a master acknowledged just before it died may be of the first generation again; never gone. */
    for (int key = 0; key < KEYS; key++)
        (void)generation_of(key);
    for (int key = 0; key < KEYS; key++)
        store(key, 3);
    for (int key = 0; key < KEYS; key++)
        if (generation_of(key) != 3)
            fail("the third generation", key, MEMCACHED_FAILURE);
    memcached_free(client);
    say("all good");
    return 0;
}
