//! `config check` and `config show`.

use std::ffi::OsString;

use tandemd::config::{self, Invocation};

use crate::arguments::{File, Settings};
use crate::{FAILED, Failure};

pub(crate) fn run(what: &Settings) -> Result<String, Failure> {
    let (File { file }, is_show) = match what {
        Settings::Check(file) => (file, false),
        Settings::Show(file) => (file, true),
    };
    let mut arguments = vec![OsString::from("--check-config")];
    if let Some(file) = file {
        arguments.push("--config".into());
        arguments.push(file.into());
    }
    // As a service's user would: that it may not start as root is not the file's fault.
    match config::parse(arguments, |name| std::env::var_os(name), false) {
        Ok(Invocation::Print(text)) => Ok(if is_show { text } else { String::new() }),
        Ok(Invocation::Run(_)) => Ok(String::new()),
        Err(problems) => {
            let texts: Vec<_> = problems.into_iter().map(|problem| problem.text).collect();
            Err((FAILED, texts.join("\ntandemctl: ")))
        }
    }
}
