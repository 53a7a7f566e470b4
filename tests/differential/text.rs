//! Classic text commands, whole and broken.

use crate::generate::{Builder, Source, alone, awaited, fresh};
use crate::script::{Command, Part};

/// One command, or a few that belong together.
pub(crate) fn command(source: &mut Source) -> Vec<Command> {
    match source.random.u8(..) {
        0..70 => vec![store(source, None)],
        70..90 => compare(source),
        90..150 => vec![retrieve(source)],
        150..190 => vec![arithmetic(source)],
        190..206 => vec![touch(source)],
        206..224 => vec![delete(source)],
        224..228 => vec![flush(source)],
        228..240 => vec![broken(source)],
        240..250 => vec![fixed(source)],
        _ => vec![numbered(source)],
    }
}

fn noreply(source: &mut Source, of_256: u8) -> &'static str {
    if source.chance(of_256) { " noreply" } else { "" }
}

/// set, add, replace, append, prepend.
fn store(source: &mut Source, key: Option<&[u8]>) -> Command {
    let name = source.pick(&["set", "set", "set", "add", "replace", "append", "prepend"]);
    let key = key.map_or_else(|| source.key(), <[u8]>::to_vec);
    let value = source.value();
    let line = format!(" {} {} {}{}", source.flags(), source.exptime(), value.len(), noreply(source, 30));
    Builder::default().bytes(name).bytes(" ").bytes(key).bytes(line).finish(Some(&value))
}

/// gets, then cas with what it showed.
fn compare(source: &mut Source) -> Vec<Command> {
    let key = source.key();
    let mut commands = Vec::new();
    let mut overwritten = false;
    let foreign = source.chance(40);
    if !foreign {
        let line = Builder::default().bytes("gets ").bytes(&key).finish(None);
        commands.push(awaited(line));
        overwritten = source.chance(30);
        if overwritten {
            commands.push(store(source, Some(&key)));
        }
    }
    let value = source.value();
    let line = format!(" {} {} {} ", source.flags(), source.exptime(), value.len());
    let unique = match (foreign, source.chance(20)) {
        (_, true) => Part::Bytes(b"0".to_vec()),
        (true, _) => source.foreign_unique(false),
        // Not one beside it: on a server that counts one by one, that may be the new one.
        (false, _) if overwritten => Part::Cas { back: 0, shift: 0, binary: false },
        (false, _) => source.unique(false),
    };
    let line =
        Builder::default().bytes("cas ").bytes(key).bytes(line).part(unique).bytes(noreply(source, 30));
    commands.push(line.finish(Some(&value)));
    commands
}

/// get, gets, gat, gats, of one key or of many.
fn retrieve(source: &mut Source) -> Command {
    let name = source.pick(&["get", "get", "get", "gets", "gets", "gat", "gats", "bget"]);
    let keys = match source.random.u8(..) {
        0..170 => 1,
        // A line of more than 2048 bytes may come in any number of reads only if it is a get.
        _ if name.starts_with("ga") || name == "bget" => source.random.usize(2..8),
        170..240 => source.random.usize(2..8),
        240..254 => source.random.usize(8..40),
        _ => source.random.usize(40..400),
    };
    let mut line = Builder::default().bytes(name);
    if name.starts_with("ga") {
        line = line.bytes(format!(" {}", source.exptime()));
    }
    for _ in 0..keys {
        line = line.bytes(source.pick(&[" ", " ", " ", " ", "  "])).bytes(source.key());
    }
    line.finish(None)
}

/// incr and decr, half of the time right after a store of a number.
fn arithmetic(source: &mut Source) -> Command {
    let name = source.pick(&["incr", "decr"]);
    let key = source.key();
    let line = format!(" {}{}", source.delta(), noreply(source, 20));
    let command = Builder::default().bytes(name).bytes(" ").bytes(&key).bytes(line);
    if source.chance(128) {
        return fresh(command.finish(None));
    }
    let number = source.number();
    let set = Builder::default().bytes("set ").bytes(&key).bytes(format!(
        " {} 0 {}\r\n",
        source.flags(),
        number.len()
    ));
    let set = set.bytes(number).bytes("\r\n").bytes(name).bytes(" ").bytes(&key);
    set.bytes(format!(" {}\r\nget ", source.delta())).bytes(key).finish(None)
}

fn touch(source: &mut Source) -> Command {
    let line = Builder::default().bytes("touch ").bytes(source.key());
    line.bytes(format!(" {}{}", source.exptime(), noreply(source, 20))).finish(None)
}

fn delete(source: &mut Source) -> Command {
    let zero = source.pick(&["", "", "", " 0"]);
    Builder::default()
        .bytes("delete ")
        .bytes(source.key())
        .bytes(zero)
        .bytes(noreply(source, 30))
        .finish(None)
}

fn flush(source: &mut Source) -> Command {
    let when = if source.delayed_flush { " 86400" } else { source.pick(&["", "", " 0", " -1"]) };
    Builder::default().bytes("flush_all").bytes(when).bytes(noreply(source, 40)).finish(None)
}

/// Numbers at the edges of what a field may hold, in every field in turn.
fn numbered(source: &mut Source) -> Command {
    let odd = source.pick(&[
        "-1",
        "abc",
        "5abc",
        "",
        "4294967295",
        "4294967296",
        "2147483647",
        "2147483648",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "+1",
        "1.0",
        "0x1",
        "00",
        "-0",
    ]);
    let key = source.pick(&["a", "b", "key:1"]);
    let name = source.pick(&["set", "add", "replace", "append", "prepend"]);
    let noreply = noreply(source, 30);
    let line = match source.random.u8(0..9) {
        0 => return alone(Command::plain(format!("{name} {key} {odd} 0 5{noreply}\r\nxxxxx\r\n"))),
        1 => return alone(Command::plain(format!("{name} {key} 0 {odd} 5{noreply}\r\nxxxxx\r\n"))),
        // A length that is refused, or that no value of ours has.
        2 => format!(
            "{name} {key} 0 0 {}{noreply}",
            source.pick(&["-1", "abc", "2147483646", "2147483647", "4294967295", "99999999999999999999"])
        ),
        3 => format!("incr {key} {odd}{noreply}"),
        4 => format!("decr {key} {odd}{noreply}"),
        // 1.6.18 takes what it should refuse, cut to 32 bits.
        5 | 6 if odd.len() >= 10 => "version".to_owned(),
        5 => format!("touch {key} {odd}{noreply}"),
        6 => format!("gat {odd} {key}"),
        7 => {
            let odd = if odd.is_empty() { "5" } else { odd };
            return alone(Command::plain(format!("cas {key} 0 0 5 {odd}{noreply}\r\nxxxxx\r\n")));
        }
        _ if source.delayed_flush => format!("verbosity {}", source.random.u8(..)),
        _ => format!(
            "flush_all {}{noreply}",
            source.pick(&["abc", "-1", "", "0", "00", "-9", "99999999999999999999"])
        ),
    };
    alone(Command::plain(format!("{line}\r\n")))
}

/// Lines that hold no item of ours, or are no command at all.
fn fixed(source: &mut Source) -> Command {
    let long = "k".repeat(251);
    let longer = "k".repeat(source.random.usize(251..1_500));
    let lines: &[&str] = &[
        "version",
        "version x",
        "mn",
        "mn",
        "verbosity 0",
        "verbosity 1",
        "verbosity",
        "verbosity x",
        "verbosity 0 noreply",
        "",
        "a",
        "ab",
        "abc",
        " ",
        "  ",
        "   version",
        "GET a",
        "Get a",
        "gets",
        "get",
        "gat",
        "gat 0",
        "gats 0",
        "get  a",
        "get a ",
        "get\ta",
        "getx a",
        "ge a",
        "set",
        "set a",
        "set a 0",
        "set a 0 0",
        "add a 0 0",
        "delete",
        "delete a 0 noreply",
        "touch",
        "touch a",
        "incr",
        "incr a",
        "decr a",
        "incr a 1 2",
        "touch a 0 0",
        "flush_all 0 0",
        "flush_all x noreply",
        "flush_all noreply x",
        "shutdown",
        "shutdown x",
        "stats foo",
        "slabs automove 0",
        "slabs automove 3",
        "slabs automove x",
        "slabs automove",
        "slabs reassign",
        "slabs reassign 1",
        "slabs reassign 1 1",
        "slabs reassign x y",
        "slabs reassign 99 1",
        "slabs foo bar baz",
        "slabs",
        "lru mode x",
        "lru mode flat",
        "lru mode",
        "lru temp_ttl 5",
        "lru temp_ttl x",
        "lru tune 10 20 0.5 2.0",
        "lru tune 10 20",
        "lru tune 90 20 0.5 2.0",
        "lru foo",
        "lru",
        "lru_crawler",
        "lru_crawler sleep 100",
        "lru_crawler sleep 9999999",
        "lru_crawler sleep x",
        "lru_crawler tocrawl 0",
        "lru_crawler foo",
        "lru_crawler crawl",
        "cache_memlimit",
        "cache_memlimit 1",
        "cache_memlimit 512",
        "cache_memlimit x",
        "cache_memlimit 9999999999",
        "mgx",
        "mx a",
        "m",
        "me",
        "mg",
        "ms",
        "md",
        "ma",
        "noreply",
        "END",
        "STORED",
        "\u{7f}",
        "quit x",
        "quit",
        "get a HTTP/1.1",
        "post / http",
        "watch x y",
        "refresh_certs",
        "extstore",
        "misbehave",
        "\u{e4}\u{f6}\u{fc}",
        "delete a b c d e f",
    ];
    let line = match source.random.u8(..) {
        0..10 => format!("get {long}"),
        10..16 => format!("get {long} a b"),
        16..20 => format!("gat 0 {longer}"),
        20..24 => format!("delete {long}"),
        24..28 => format!("incr {longer} 1"),
        28..32 => format!("touch {longer} 0"),
        32..40 => return alone(Command::plain(format!("set {long} 0 0 5\r\nxxxxx\r\n"))),
        40..46 => {
            return alone(Command::plain(format!(
                "{}\n",
                source.pick(&["get a", "version", "delete a", "nothing"])
            )));
        }
        46..52 => return alone(Command::plain(format!("set a 0 0 2\n{}\r\n", source.pick(&["hi", "xy"])))),
        _ => source.pick(lines).to_owned(),
    };
    if source.delayed_flush && line.starts_with("flush_all") {
        return alone(flush(source));
    }
    alone(Command::plain(format!("{line}\r\n")))
}

/// A store whose value is longer or shorter than it says, or whose line was damaged.
fn broken(source: &mut Source) -> Command {
    let name = source.pick(&["set", "set", "add", "append"]);
    let key = source.key();
    let says = source.random.usize(0..40);
    let line = format!(" 0 0 {says}{}\r\n", noreply(source, 40));
    let line = Builder::default().bytes(name).bytes(" ").bytes(&key).bytes(line);
    match source.random.u8(0..4) {
        // Longer: what is left over is a command of its own.
        0 => alone(line.bytes(vec![b'x'; says + source.random.usize(1..30)]).finish(None)),
        // As long as it says with its line end, but the line end is not one.
        1 => alone(line.bytes(vec![b'x'; says + 2]).finish(None)),
        2 => alone(
            line.bytes(vec![b'x'; says])
                .bytes(source.pick(&["\n\r", "xx", "\rx", "x\n", "\n\n"]))
                .finish(None),
        ),
        _ => damaged(source),
    }
}

/// A line without a value in which some bytes were changed.
fn damaged(source: &mut Source) -> Command {
    let mut line = match source.random.u8(0..6) {
        0 => format!("get a key:{} b", source.random.u8(0..4)),
        1 => format!("incr a {}", source.delta()),
        2 => format!("delete key:1{}", noreply(source, 100)),
        // Never, and no damage below makes it soon: the clock of these tests does not move.
        3 => "touch b 0".to_owned(),
        4 => "gats 0 a c".to_owned(),
        _ => "version".to_owned(),
    }
    .into_bytes();
    for _ in 0..source.random.usize(1..4) {
        let at = source.random.usize(0..line.len());
        match source.random.u8(0..3) {
            0 => line[at] = source.pick(b"abcxyz00 -+\x01\x80~/:"),
            1 => line.insert(at, source.pick(b" 00az-")),
            _ if line.len() > 1 => drop(line.remove(at)),
            _ => {}
        }
    }
    // Behind a blank, 1.6.18 does what 1.6.45 refuses: that is in `fixed`, with a harmless command.
    line.drain(..line.iter().take_while(|byte| **byte == b' ').count());
    if line.starts_with(b"delete ") && line.iter().filter(|byte| **byte == b' ').count() > 1 {
        // 1.6.18 refuses a third word that is not 0, and 1.6.45 deletes: that cannot be compared.
        line = b"delete key:1 0".to_vec();
    }
    if !line.starts_with(b"ga")
        && !line.starts_with(b"get")
        && line.iter().filter(|byte| **byte == b' ').count() > 2
    {
        // Words that 1.6.18 refuses and 1.6.45 ignores.
        line = b"incr a 1".to_vec();
    }
    line.extend_from_slice(b"\r\n");
    alone(Command::plain(line))
}
