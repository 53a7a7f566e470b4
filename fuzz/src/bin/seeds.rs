//! `seeds`: the targets, one per line with the longest input. `seeds DIRECTORY`: writes their seeds there.

use tandem_fuzz::{TARGETS, seeds};

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    for target in TARGETS {
        let Some(directory) = &directory else {
            println!("{} {}", target.name, target.longest);
            continue;
        };
        let place = directory.join(target.name);
        std::fs::create_dir_all(&place)?;
        for (number, seed) in seeds::of(target.name).iter().enumerate() {
            std::fs::write(place.join(format!("seed{number:04}")), seed)?;
        }
    }
    Ok(())
}
