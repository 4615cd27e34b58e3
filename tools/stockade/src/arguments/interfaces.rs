//! `-i`, `-L` and `-n`: network interfaces, in the order in which the command line has them.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error, value_parser};
use stockade_api::request::NewInterface;

/// Most interfaces that can be asked for; the daemon may say no to fewer.
const MAX_INTERFACES: u64 = 64;

/// Network interfaces of a new virtual machine: local ones and those with a switch in the order that they were given in, then plain
/// ones until there are as many as `-i` says.
#[derive(Debug, Default)]
pub struct Interfaces(pub Vec<NewInterface>);

impl Args for Interfaces {
    fn augment_args(command: Command) -> Command {
        let count = Arg::new("interfaces")
            .short('i')
            .long("interfaces")
            .value_name("NUMBER")
            .value_parser(value_parser!(u64).range(0..=MAX_INTERFACES))
            .help("Network interfaces, with those of -L and -n");
        let local = Arg::new("local")
            .short('L')
            .long("local")
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("local")
            .help("Add a network interface with addresses that the daemon gives to host and guest");
        let switch = Arg::new("switch")
            .short('n')
            .long("switch")
            .value_name("SWITCH")
            .action(ArgAction::Append)
            .help("Add a network interface in this switch; once for each interface");
        command.args([count, local, switch])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Interfaces {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let local = || NewInterface { switch: None, local: true };
        let plugged = |switch: &String| NewInterface { switch: Some(switch.clone()), local: false };
        let locals = matches.indices_of("local").into_iter().flatten().map(|place| (place, local()));
        let switches = matches.get_many("switch").into_iter().flatten().map(plugged);
        let places = matches.indices_of("switch").into_iter().flatten();
        let mut placed: Vec<_> = locals.chain(places.zip(switches)).collect();
        placed.sort_by_key(|(place, _)| *place);
        let mut interfaces: Vec<_> = placed.into_iter().map(|(_, interface)| interface).collect();
        let wanted = matches.get_one::<u64>("interfaces").and_then(|&wanted| usize::try_from(wanted).ok()).unwrap_or(0);
        interfaces.resize(wanted.max(interfaces.len()), NewInterface::default());
        Ok(Self(interfaces))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(line: &[&str]) -> Vec<String> {
        let command = Interfaces::augment_args(Command::new("start"));
        let matches = command.try_get_matches_from(["start"].iter().chain(line)).unwrap();
        let described = |interface: &NewInterface| match (&interface.switch, interface.local) {
            (Some(switch), _) => switch.clone(),
            (None, true) => "local".into(),
            (None, false) => "plain".into(),
        };
        Interfaces::from_arg_matches(&matches).unwrap().0.iter().map(described).collect()
    }

    #[test]
    fn interfaces_are_in_the_order_of_the_command_line() {
        assert!(interfaces(&[]).is_empty());
        assert_eq!(interfaces(&["-i", "2"]), ["plain", "plain"]);
        assert_eq!(interfaces(&["-n", "a", "-L", "-n", "b", "-i", "4"]), ["a", "local", "b", "plain"]);
        assert_eq!(interfaces(&["-i", "1", "-LL"]), ["local", "local"]);
    }
}
