//! What the server does wrong.

use std::str::FromStr;

/// One vice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vice {
    /// None at all: the definition of `victim` changes where it is told to.
    None,
    /// Dies in mid-call: over stdio the process, over HTTP the connection.
    Crash,
    /// Never answers a call.
    Hang,
    /// Never answers at all.
    Mute,
    /// Sends notifications without end in place of an answer.
    Flood,
    /// Sends one message without end.
    Pour,
    /// Has 900 tools, on pages.
    Many,
    /// Has pages of tools without end.
    Endless,
    /// Answers with somebody else's id, and no more.
    WrongId,
    /// Answers twice.
    Twice,
    /// Answers with 16 MiB.
    Huge,
    /// Answers what is nested too deep.
    Deep,
    /// Answers with a key that is there twice.
    DuplicateKeys,
    /// Answers what is no JSON.
    Garbage,
    /// Asks the user for a password while it is called.
    Asks,
    /// Has tools whose names look like others', are reserved, or cannot be.
    LookAlikes,
    /// Has tools whose schemas do not compile, or are elsewhere.
    BadSchemas,
    /// Over HTTP: sends the client to another place.
    Redirect,
    /// Over HTTP: demands a credential that nobody has.
    Unauthorized,
}

impl Vice {
    const ALL: [Self; 19] = [
        Self::None,
        Self::Crash,
        Self::Hang,
        Self::Mute,
        Self::Flood,
        Self::Pour,
        Self::Many,
        Self::Endless,
        Self::WrongId,
        Self::Twice,
        Self::Huge,
        Self::Deep,
        Self::DuplicateKeys,
        Self::Garbage,
        Self::Asks,
        Self::LookAlikes,
        Self::BadSchemas,
        Self::Redirect,
        Self::Unauthorized,
    ];

    /// As the command line names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Mute => "mute",
            Self::Flood => "flood",
            Self::Pour => "pour",
            Self::Many => "many",
            Self::Endless => "endless",
            Self::WrongId => "wrong-id",
            Self::Twice => "twice",
            Self::Huge => "huge",
            Self::Deep => "deep",
            Self::DuplicateKeys => "duplicate-keys",
            Self::Garbage => "garbage",
            Self::Asks => "asks",
            Self::LookAlikes => "look-alikes",
            Self::BadSchemas => "bad-schemas",
            Self::Redirect => "redirect",
            Self::Unauthorized => "unauthorized",
        }
    }
}

impl FromStr for Vice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| format!("there is no vice `{text}`"))
    }
}
