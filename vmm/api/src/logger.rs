//! `PUT /logger`: where the log goes, and how much of it.

use serde::{Deserialize, Deserializer, Serialize};

/// Body of `PUT /logger`. A field that is absent leaves its setting as it is, except `level`, which becomes
/// [`Level::Info`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// A file, created if missing, a named pipe, or `fd:NAME`.
    pub log_path: Option<String>,
    /// The least severe level to log.
    pub level: Option<Level>,
    /// Whether lines show their level.
    pub show_level: Option<bool>,
    /// Whether lines show the source file and line that wrote them.
    pub show_log_origin: Option<bool>,
    /// Log only what modules with this prefix write.
    pub module: Option<String>,
}

/// Level of the log; spelled in any case, and `Warning` is `Warn`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Level {
    /// Nothing.
    Off,
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What is odd.
    Warn,
    /// What failed.
    Error,
}

impl std::str::FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            _ => Err(LevelError(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// No such level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no log level {0:?}; use one of Off, Error, Warn, Info, Debug, Trace")]
pub struct LevelError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_many_spellings() {
        for (text, level) in [
            ("\"WARNING\"", Level::Warn),
            ("\"Warn\"", Level::Warn),
            ("\"trace\"", Level::Trace),
            ("\"oFF\"", Level::Off),
        ] {
            assert_eq!(serde_json::from_str::<Level>(text).unwrap(), level);
        }
        assert!(serde_json::from_str::<Level>("\"loud\"").unwrap_err().to_string().contains("use one of"));
        assert_eq!(serde_json::to_string(&Level::Warn).unwrap(), "\"Warn\"");
    }
}
