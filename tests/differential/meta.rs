//! Meta commands, whole and broken.
//!
//! What 1.6.18 does not know (`E`, `C` of `mg`, `x` of `md` and `s` of `ms`) cannot be compared with it
//! and is not sent.

use crate::generate::{Builder, Source, alone, awaited, fresh};
use crate::script::{Command, Part};

/// One command, or a few that belong together.
pub(crate) fn command(source: &mut Source) -> Vec<Command> {
    match source.random.u8(..) {
        0..80 => vec![get(source)],
        80..140 => store(source),
        140..170 => delete(source),
        170..225 => arithmetic(source),
        225..240 => vec![Builder::default().bytes("me ").bytes(source.key()).finish(None)],
        240..250 => vec![broken(source)],
        _ => vec![Command::plain("mn\r\n")],
    }
}

/// The key, in base64 at times; whether it is.
fn key(source: &mut Source) -> (Vec<u8>, bool) {
    if source.chance(30) {
        let encoded = source.pick(&["cXV4", "cXE=", "/+8A", "AAECAw=="]);
        return (encoded.into(), true);
    }
    (source.key(), false)
}

/// Some of `flags`, in random order.
fn some(source: &mut Source, flags: &[&str], most: usize) -> String {
    let mut flags: Vec<&str> = flags.to_vec();
    source.random.shuffle(&mut flags);
    flags.truncate(source.random.usize(0..=most.min(flags.len())));
    flags.iter().fold(String::new(), |line, flag| line + " " + flag)
}

/// The flags that every command may carry, and its base64 mark.
fn common(source: &mut Source, encoded: bool) -> String {
    let opaque = ["O1", "Oabc", "O", "O12345678901234567890123456789012"];
    let mut line = String::new();
    if encoded {
        line.push_str(" b");
    }
    if source.chance(60) {
        line.push_str(" k");
    }
    if source.chance(60) {
        line.push(' ');
        line.push_str(source.pick(&opaque[..2]));
    }
    if source.chance(40) {
        line.push_str(" q");
    }
    line
}

fn get(source: &mut Source) -> Command {
    let (key, encoded) = key(source);
    let shown = some(source, &["v", "v", "c", "f", "s", "t", "h", "l", "u"], 6);
    let changed = match source.random.u8(0..2) {
        0 => some(source, &["N0", "N600", "R30", "R2000"], 2),
        _ => some(source, &["N0", "N600", "T0", "T600", "T100000", "T-1", "R30", "R700", "R200000"], 3),
    };
    let line = Builder::default()
        .bytes("mg ")
        .bytes(key)
        .bytes(unique_letters(&shown))
        .bytes(common(source, encoded));
    line.bytes(if source.chance(100) { unique_letters(&changed) } else { String::new() }).finish(None)
}

/// A letter twice is an error; that case is in `broken`.
fn unique_letters(flags: &str) -> String {
    let mut letters = Vec::new();
    let fresh = flags.split(' ').filter(|flag| {
        let letter = flag.bytes().next();
        let fresh = letter.is_some() && !letters.contains(&letter);
        letters.push(letter);
        fresh
    });
    fresh.fold(String::new(), |line, flag| line + " " + flag)
}

/// Asks for a key's CAS unique, so that the next command can name it.
fn look(key: &[u8], encoded: bool) -> Command {
    let line = Builder::default().bytes("mg ").bytes(key).bytes(if encoded { " b c" } else { " c" });
    awaited(line.finish(None))
}

fn store(source: &mut Source) -> Vec<Command> {
    let (key, encoded) = key(source);
    let mode =
        source.pick(&["", "", "", "", " ME", " MA", " MP", " MR", " MS", " Ma", " Me", " Mset", " Mappend"]);
    let value = if source.chance(90) { source.number().into_bytes() } else { source.value() };
    let flags = some(source, &["F0", "F5", "F42"], 1) + &some(source, &["T0", "T600", "T-1", "T100000"], 1);
    // 1.6.18 does not know that N lets append and prepend create.
    let appends = mode.starts_with(" MA") || mode.starts_with(" MP");
    let vivify = if !appends && source.chance(30) { source.pick(&[" N0", " N600"]) } else { "" };
    let shown = if source.chance(80) { " c" } else { "" };
    let line = Builder::default().bytes("ms ").bytes(&key).bytes(format!(" {}", value.len()));
    let line = line.bytes(flags).bytes(mode).bytes(vivify).bytes(shown).bytes(common(source, encoded));
    let (mut commands, line) = maybe_compare(source, &key, encoded, line);
    commands.push(line.finish(Some(&value)));
    commands
}

/// With a chance, adds `C` with the key's own CAS unique, and `I`.
fn maybe_compare(source: &mut Source, key: &[u8], encoded: bool, line: Builder) -> (Vec<Command>, Builder) {
    if source.chance(170) {
        let line = if source.chance(12) { line.bytes(" C").part(source.foreign_unique(false)) } else { line };
        return (Vec::new(), line);
    }
    let invalidate = if source.chance(80) { " I" } else { "" };
    let line = line.bytes(" C").part(source.unique(false)).bytes(invalidate);
    (vec![look(key, encoded)], line)
}

fn delete(source: &mut Source) -> Vec<Command> {
    let (key, encoded) = key(source);
    let line = Builder::default().bytes("md ").bytes(&key).bytes(common(source, encoded));
    let invalidate = source.chance(80);
    let line = if invalidate {
        line.bytes(source.pick(&[" I", " I T3000", " I T600", " T600 I", " I T0"]))
    } else {
        line
    };
    if invalidate || source.chance(170) {
        return vec![line.finish(None)];
    }
    let line = line.bytes(" C").part(source.unique(false));
    vec![look(&key, encoded), line.finish(None)]
}

fn arithmetic(source: &mut Source) -> Vec<Command> {
    let (key, encoded) = key(source);
    let mode = source.pick(&["", "", "", " MI", " MD", " M+", " M-", " Mi", " Md", " Mincr", " Mdecr"]);
    let delta = if source.chance(128) { format!(" D{}", source.delta()) } else { String::new() };
    let vivify = if source.chance(80) {
        source.pick(&[" N0", " N600", " N0 J5", " J5", " N0 J18446744073709551615"])
    } else {
        ""
    };
    let shown = unique_letters(&some(source, &["v", "v", "t", "c"], 3));
    let time = if source.chance(40) { source.pick(&["0", "600", "100000"]) } else { "" };
    let touch = if time.is_empty() { String::new() } else { format!(" T{time}") };
    let line =
        Builder::default().bytes("ma ").bytes(&key).bytes(shown).bytes(mode).bytes(delta).bytes(vivify);
    let line = line.bytes(touch).bytes(common(source, encoded));
    let mut commands = if source.chance(220) {
        vec![fresh(line.finish(None))]
    } else {
        let line = line.bytes(" C").part(source.unique(false));
        vec![look(&key, encoded), line.finish(None)]
    };
    if !time.is_empty() {
        // memcached gives the new time to the old item, which is not there any more if the number grew.
        let line = Builder::default().bytes("mg ").bytes(key).bytes(format!(" T{time}"));
        commands.push(line.bytes(if encoded { " b" } else { "" }).finish(None));
    }
    commands
}

/// Wrong flags, tokens, lengths and keys.
fn broken(source: &mut Source) -> Command {
    let many = " v".repeat(if source.chance(128) {
        source.random.usize(2..15)
    } else {
        source.random.usize(24..30)
    });
    let long = "k".repeat(source.random.usize(251..600));
    let opaque = "O".repeat(source.random.usize(30..60));
    let lines: &[&str] = &[
        "mg a c c",
        "mg a z",
        "mg a v v",
        "mg a T",
        "mg a Tx",
        "mg a N",
        "mg a Nx",
        "mg a R",
        "mg a Rx",
        "mg a 0",
        "mg a -",
        "mg a b",
        "mg abc b v",
        "mg a!b= b v",
        "mg ==== b",
        "mg a= b v k",
        "mg",
        "mg  a  v",
        "mg a k O",
        "mg a q k",
        "mg a noreply",
        "md a z",
        "md a q q",
        "md a C",
        "md a Cx",
        "md a Tx I",
        "md",
        "md a b",
        "md a v",
        "md a noreply",
        "ma a z",
        "ma a MX",
        "ma a M",
        "ma a D",
        "ma a Dx",
        "ma a D-1",
        "ma a Jx N0",
        "ma a Nx",
        "ma a v v",
        "ma",
        "ma a b",
        "ma a D18446744073709551616",
        "me",
        "me a z",
        "me a b c",
        "me a v",
        "mn x",
        "mx",
        "m a",
        "mg a P1 v",
        "mg a Lxyz v",
        "mg a S5",
        "mg a F5 v",
        "mg a I v",
        "mg a D5",
        "mg a J5",
        "ms",
        "ms a",
        "ms a x",
        "ms a -1",
        "ms a S5",
        "ms a 5x",
        "ms a 2147483647",
    ];
    let stores: &[&str] = &[
        "ms a 5 z",
        "ms a 5 MX",
        "ms a 5 M",
        "ms a 5 F",
        "ms a 5 Fx",
        "ms a 5 F-1",
        "ms a 5 F4294967295",
        "ms a 5 F4294967296",
        "ms a 5 T",
        "ms a 5 Tx",
        "ms a 5 C",
        "ms a 5 Cx",
        "ms a 5 c c",
        "ms a 5 v",
        "ms a 5 k q k",
        "ms ab! 5 b",
        "ms a 5 5",
        "ms a 5 noreply",
        "ms a 5 I",
        "ms a 05",
        "ms a 5 P1 L2",
        "ms abc 5 b k",
        "ms a 5 N",
        "ms a 5 Nx",
        "ms a 5 I I",
    ];
    let line = match source.random.u8(..) {
        0..100 => source.pick(lines).to_owned(),
        100..180 => format!("{}\r\nxxxxx", source.pick(stores)),
        180..190 => format!("mg a{many}"),
        190..200 => format!("ms a 5{many}\r\nxxxxx"),
        200..210 => format!("mg {long} v"),
        210..216 => format!("ms {long} 5\r\nxxxxx"),
        216..222 => format!("md {long} q"),
        222..228 => format!("ma {long} v"),
        // Not with mg, which counts as a get before it looks at its opaque.
        228..236 => format!("md a q {opaque}"),
        236..242 => format!("ms a 5 {opaque}\r\nxxxxx"),
        // The value does not end where it says.
        242..248 => "ms a 5 c\r\nxxxxxxx".to_owned(),
        _ => "ms a 5 q\r\nxxxxxxxxxx".to_owned(),
    };
    let parts = vec![Part::Bytes(format!("{line}\r\n").into_bytes())];
    alone(Command { parts, begins_round: false, ends_round: false, alone: true })
}
