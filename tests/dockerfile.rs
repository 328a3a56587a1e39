//! The container recipe against the repository: no container engine runs in this suite, so the test
//! looks up every path that it copies and every command, flag and variable that it uses.

use std::fs;

use crate::support;

/// The instructions of the recipe, continued lines joined: keyword and arguments.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(support::repository("Dockerfile")).unwrap();
    let code: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    code.join("\n")
        .replace("\\\n", " ")
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(keyword, arguments)| (keyword.to_owned(), arguments.trim().to_owned()))
        .collect()
}

/// The words of a command in exec form, as in `CMD ["a", "b"]`.
fn exec_form(arguments: &str) -> Vec<String> {
    let array = &arguments[arguments.find('[').expect("commands are in exec form")..];
    serde_json::from_str(array).expect("an array of words")
}

fn all(keyword: &str) -> Vec<String> {
    instructions()
        .into_iter()
        .filter(|(name, _)| name == keyword)
        .map(|(_, arguments)| arguments)
        .collect()
}

/// Fails unless the binary knows the subcommands and flags that follow its name.
fn assert_known(words: &[String]) {
    let is_flag = |word: &&String| word.starts_with("--");
    let commands: Vec<&String> = words.iter().take_while(|word| !is_flag(word)).collect();
    let mut help = commands.clone();
    let asked = "--help".to_owned();
    help.push(&asked);
    let help = support::run(help).expect_code(0).stdout;
    for flag in words.iter().filter(is_flag) {
        let known = help.split([' ', '\n', ',', '=', '[']).any(|word| word == flag);
        assert!(known, "{commands:?} does not know {flag}:\n{help}");
    }
    let usage = format!(
        "consent-ledger {}",
        commands.iter().map(|text| text.as_str()).collect::<Vec<_>>().join(" ")
    );
    assert!(help.contains(&usage), "`{usage}` is no command of its own:\n{help}");
}

#[test]
fn every_copied_path_exists_and_reaches_the_build() {
    let ignore = fs::read_to_string(support::repository(".dockerignore")).unwrap();
    let mut sources = 0;
    for arguments in all("COPY") {
        if arguments.starts_with("--from=") {
            continue;
        }
        let words: Vec<&str> = arguments.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(support::repository(source).exists(), "COPY {source}: not in the repository");
            assert!(ignore.lines().any(|line| line == format!("!{source}")), "{source} is ignored");
            sources += 1;
        }
    }
    assert!(sources >= 5, "the recipe copies manifests, protocol and sources");
}

#[test]
fn every_command_flag_and_variable_is_known() {
    let entrypoint = exec_form(&all("ENTRYPOINT")[0]);
    assert_eq!(entrypoint, ["consent-ledger"]);
    assert_known(&exec_form(&all("CMD")[0]));
    let probe = exec_form(&all("HEALTHCHECK")[0]);
    assert_eq!(probe[0], entrypoint[0], "the probe is in the image");
    assert_known(&probe[1..]);
    // The choices that the head of the file describes.
    assert_known(&["init".to_owned()]);
    assert_known(&["serve", "--expect-ledger", "ID"].map(str::to_owned));
    assert_known(&["serve", "--listen", "0.0.0.0:50051", "--insecure"].map(str::to_owned));

    // Every option is CONSENT_LEDGER_<NAME> in the environment.
    for variable in all("ENV") {
        let (name, value) = variable.split_once('=').expect("NAME=value");
        let option = name.strip_prefix("CONSENT_LEDGER_").expect("a variable of ours");
        let flag = format!("--{}", option.to_lowercase().replace('_', "-"));
        assert_known(&["serve".to_owned(), flag, value.to_owned()]);
    }
}

#[test]
fn the_image_does_not_run_as_root_and_keeps_its_data_in_the_volume() {
    let user = all("USER").pop().expect("a user");
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{user}");
    let volume = exec_form(&all("VOLUME")[0]);
    let data_dir = format!("CONSENT_LEDGER_DATA_DIR={}", volume[0]);
    assert!(all("ENV").contains(&data_dir), "data is kept in {}", volume[0]);
    assert!(!exec_form(&all("CMD")[0]).contains(&"--insecure".to_owned()));
}
