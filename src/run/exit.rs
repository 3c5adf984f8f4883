//! How the process ends. The doc comment of each code is also its line in `--help`.

macro_rules! exit_codes {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        /// How the process ends: its exit code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Exit {
            $(#[doc = $meaning] $name = $code,)*
        }

        impl Exit {
            /// Every exit code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it means, as a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

exit_codes! {
    Done = 0, "The command succeeded; after a run, all that --resume needs is on disk.";
    Failed = 1, "It failed in a way that has no code of its own.";
    Usage = 2, "The command line, the config or an input file is wrong.";
    Model = 3, "The model could not be fetched or loaded.";
    Restarts = 4, "Actors failed more often than `supervisor.restarts_max` allows, or refused texts ended most episodes.";
    Device = 5, "The device could not be started again, or stands still.";
    Checkpoint = 6, "A checkpoint could not be written or read.";
    Useless = 7, "Every episode was dropped for `supervisor.useless_seconds`; what was learned before is on disk.";
}
