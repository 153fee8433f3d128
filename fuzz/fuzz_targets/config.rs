//! Owns what is held of the configuration: any text is read or refused in words, and what is read is
//! the same again after it was written.

#![no_main]

use holdline::testing::config::{Config, Form, Secrets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let config = match Config::parse(text, "fuzz.toml") {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.to_string().is_empty(), "a refusal says why");
            return;
        }
    };
    let [full, changed] =
        [Form::Full, Form::Changed].map(|form| config.document().write(form, Secrets::Shown));
    for shown in [&full, &changed] {
        match Config::parse(shown, "shown.toml") {
            Ok(again) => {
                assert!(again == config, "it reads as another:\n{shown}");
                assert_eq!(again.document().write(Form::Full, Secrets::Shown), full);
                assert_eq!(again.document().write(Form::Changed, Secrets::Shown), changed);
            }
            Err(errors) => panic!("what is shown is refused: {errors}\n{shown}"),
        }
    }
});
