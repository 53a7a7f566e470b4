import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import net.spy.memcached.AddrUtil;
import net.spy.memcached.ConnectionFactory;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.FailureMode;
import net.spy.memcached.MemcachedClient;
import net.spy.memcached.OperationTimeoutException;

/**
 * Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through the client, says
 * "stored", waits for a line (its server is killed and started again meanwhile), and reads everything again.
 */
public class Recipe {
    static MemcachedClient connect() throws Exception {
        // RECIPE
        return cache;
    }

    interface Action {
        Object run() throws Exception;
    }

    /** Again and again, as an application does that was asked by a user; how often it failed. */
    static int insist(Action action) throws Exception {
        Exception last = null;
        for (int failures = 0; failures < 200; failures++) {
            try {
                Object outcome = action.run();
                if (outcome == null || outcome.equals(false)) {
                    throw new IllegalStateException("missed, or not stored");
                }
                return failures;
            } catch (OperationTimeoutException | CancellationException | ExecutionException away) {
                last = away;
            }
            Thread.sleep(50);
        }
        throw last;
    }

    /** The client's own threads would keep the process when this fails. */
    public static void main(String[] none) {
        try {
            System.out.println("java " + storeAndRead());
            System.exit(0);
        } catch (Exception problem) {
            problem.printStackTrace();
            System.exit(1);
        }
    }

    static int storeAndRead() throws Exception {
        MemcachedClient cache = connect();
        for (int n = 0; n < 100; n++) {
            int number = n;
            insist(() -> cache.set("key-" + number, 3600, "value-" + number).get());
        }
        System.out.println("stored");
        System.in.read();
        int failed = 0;
        for (int n = 0; n < 100; n++) {
            int number = n;
            Object[] value = new Object[1];
            failed += insist(() -> value[0] = cache.get("key-" + number));
            if (!("value-" + number).equals(value[0])) {
                throw new IllegalStateException("key-" + number + " is " + value[0]);
            }
        }
        if (cache.incr("counter", 1, 1) != 1 || cache.incr("counter", 1) != 2) {
            throw new IllegalStateException("the counter");
        }
        return failed;
    }
}
