//! clap, made to read flags as Go's packages do: engines write them so.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Parser};

/// Reads the command line of a verb, or of none.
pub fn parse<'a, P: Parser>(words: impl Iterator<Item = &'a OsStr>) -> Result<P, clap::Error> {
    let mut matches = P::command().mut_args(like_go).try_get_matches_from(words)?;
    P::from_arg_matches_mut(&mut matches)
}

/// A switch may have a value, and an empty path stands for the default. The help shows neither.
fn like_go(arg: Arg) -> Arg {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true);
        return arg.value_name("BOOLEAN").value_parser(boolean).default_value("false").default_missing_value("true");
    }
    if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() {
        let default = arg.get_default_values().first().map(PathBuf::from).unwrap_or_default();
        let or_default = move |path: OsString| if path.is_empty() { default.clone() } else { path.into() };
        return arg.value_parser(OsStringValueParser::new().map(or_default));
    }
    arg
}

/// A path that was given: for Go an empty one was not.
pub fn given(path: Option<&PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// The words of Go's strconv.ParseBool.
pub fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    #[command(args_override_self = true)]
    struct Flags {
        #[arg(long, short)]
        detach: bool,
        #[arg(long, short)]
        tty: bool,
        #[arg(long)]
        log: Option<PathBuf>,
        #[arg(long, default_value = ".")]
        bundle: PathBuf,
        id: Option<String>,
    }

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        parse(std::iter::once("x").chain(line.split(' ')).map(OsStr::new))
    }

    #[test]
    fn switches_may_have_values_and_the_last_one_counts() {
        for (line, detach, tty) in [
            ("id", false, false),
            ("-d id", true, false),
            ("--detach id", true, false),
            ("--detach --detach=false id", false, false),
            ("--detach=0 -d id", true, false),
            ("-d=false -t=TRUE id", false, true),
            ("-dt id", true, true),
            ("-dt=F id", true, false),
        ] {
            let read = flags(line).unwrap();
            assert_eq!((read.detach, read.tty, read.id.as_deref()), (detach, tty, Some("id")), "{line}");
        }
        for line in ["--detach=", "--detach=yes", "-d=2", "-dx"] {
            assert!(flags(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_empty_path_was_not_given_and_a_missing_one_is_an_error() {
        assert_eq!(given(flags("--log= id").unwrap().log.as_ref()), None);
        assert_eq!(given(flags("--log x --log= id").unwrap().log.as_ref()), None);
        assert_eq!(given(flags("--log x id").unwrap().log.as_ref()), Some(PathBuf::from("x")));
        assert_eq!(flags("--bundle= id").unwrap().bundle, PathBuf::from("."));
        assert!(flags("--log").is_err());
    }
}
