//! A backup's items are never read, and yet it keeps those that the master's clients read.

use super::*;

/// A journal whose changes reach another engine at once.
struct Stream {
    to: Arc<Memory>,
    hints: bool,
    now: Now,
}

impl Journal for Stream {
    fn record(&self, _shard: usize, change: &Change<'_>) {
        self.to.apply(change, self.now);
    }

    fn hint(&self, shard: usize, change: &Change<'_>) {
        if self.hints {
            self.record(shard, change);
        }
    }
}

/// Keys by popularity: the first as often as the next two, as the next four, …
struct Popular(u64);

impl Popular {
    fn next(&mut self) -> String {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        format!("key-{}", 400_000_f64.powf(uniform) as u64)
    }
}

/// Hits of a thousand requests on the master and on its backup, after clients have used the
/// master as a cache for a while.
fn hits(hints: bool) -> [usize; 2] {
    let backup = Arc::new(engine(4 << 20));
    let journal = Stream { to: Arc::clone(&backup), hints, now: at(1) };
    let config = MemoryConfig { limit_bytes: 4 << 20, ..MemoryConfig::default() };
    let master = Memory::new(config, Arc::new(journal));
    let value = "v".repeat(100);
    let mut keys = Popular(1);
    for request in 0..150_000 {
        // A second for each 100 requests: hints have a rate.
        let (key, now) = (keys.next(), at(1 + request / 100));
        if get(&master, &key, now).is_none() {
            set(&master, &key, &value, now);
        }
    }
    let sample: Vec<String> = (0..20_000).map(|_| keys.next()).collect();
    let count = |engine: &Memory| {
        let found = |key: &&String| engine.read(key.as_bytes(), at(2000), &mut |_| ());
        sample.iter().filter(found).count() * 1000 / sample.len()
    };
    [count(&master), count(&backup)]
}

#[test]
fn a_backup_keeps_what_the_masters_clients_read() {
    let [master, warm] = hits(true);
    let [_, cold] = hits(false);
    println!("hits of 1000: {master} on the master, {warm} on its backup, {cold} without hints");
    assert!(warm + 10 >= master, "{warm} of 1000 on the backup, {master} on the master");
    assert!(cold + 30 < warm, "the hints do nothing here: {cold} of 1000 without, {warm} with them");
}
