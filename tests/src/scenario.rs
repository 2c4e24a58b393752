//! Scenarios: a user's commands, one a line, with what each must print.
//!
//! ```text
//! file web.yaml            what follows, up to a line that says `end`, is written to web.yaml
//! kubectl apply -f web.yaml                  must succeed
//! kubectl get web => Running                 must succeed, and print this
//! kubectl get web !> NotFound                must fail, and print this
//! kubectl get web ~> Running                 is repeated until it prints this
//! with EDITOR=true                           sets a variable for the commands that follow
//! helm list | grep x                         any line may be a shell's pipeline
//! ```
//!
//! Commands run in a shell whose `kubectl` and `helm` are real ones that talk to the instance as its administrator.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{Instance, eventually, kubectl};

/// What a command must do.
enum Expectation {
    Succeeds,
    Prints(String),
    Fails(String),
    Comes(String),
}

impl Instance {
    /// Runs the commands of `scenario` in order, in a folder of their own.
    #[track_caller]
    pub fn play(&self, name: &str, scenario: &str) {
        let stage = Stage::build(self, name);
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut lines = scenario.lines();
        while let Some(line) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(file) = line.strip_prefix("file ") {
                let content: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "end").collect();
                fs::write(stage.folder.join(file), content.join("\n") + "\n").expect("the scenario's folder is ours");
            } else if let Some(variable) = line.strip_prefix("with ") {
                let (key, value) = variable.split_once('=').expect("with NAME=VALUE");
                variables.push((key.to_owned(), value.to_owned()));
            } else {
                stage.act(line, &variables);
            }
        }
    }
}

/// Where a scenario plays: its folder, and programs that know the instance.
struct Stage {
    folder: PathBuf,
    programs: PathBuf,
}

impl Stage {
    fn build(instance: &Instance, name: &str) -> Self {
        let folder = instance.data_dir().join("scenario").join(name);
        let programs = instance.data_dir().join("scenario").join("bin");
        fs::create_dir_all(&folder).expect("the data directory is ours");
        fs::create_dir_all(&programs).expect("the data directory is ours");
        let helm = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
        for (program, path) in [("kubectl", kubectl::binary().to_string_lossy().into_owned()), ("helm", helm)] {
            let wrapper = programs.join(program);
            // not as a flag: names of plugins and aliases must come first
            let script =
                format!("#!/bin/sh\nexport KUBECONFIG='{}'\nexec '{path}' \"$@\"\n", instance.kubeconfig().display());
            fs::write(&wrapper, script).expect("the data directory is ours");
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&wrapper, executable).expect("the file is ours");
        }
        Self { folder, programs }
    }

    #[track_caller]
    fn act(&self, line: &str, variables: &[(String, String)]) {
        let (command, expectation) = expectation(line);
        match expectation {
            Expectation::Succeeds => {
                let (succeeded, printed) = self.run(command, variables);
                assert!(succeeded, "{command}\n{printed}");
            }
            Expectation::Prints(text) => {
                let (succeeded, printed) = self.run(command, variables);
                assert!(
                    succeeded && printed.contains(&text),
                    "{command}\nshould print {text:?}, and printed\n{printed}"
                );
            }
            Expectation::Fails(text) => {
                let (succeeded, printed) = self.run(command, variables);
                assert!(
                    !succeeded && printed.contains(&text),
                    "{command}\nshould fail with {text:?}, and printed\n{printed}"
                );
            }
            Expectation::Comes(text) => {
                eventually(line, || {
                    let (succeeded, printed) = self.run(command, variables);
                    (succeeded && printed.contains(&text)).then_some(())
                });
            }
        }
    }

    /// Runs a command to its end: whether it succeeded, and all it printed.
    fn run(&self, command: &str, variables: &[(String, String)]) -> (bool, String) {
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-c", command])
            .current_dir(&self.folder)
            // the discovery cache and helm's own files live below HOME
            .env("HOME", &self.folder)
            // what an editor could not save is kept there
            .env("TMPDIR", &self.folder)
            .env("PATH", path)
            .env_remove("KUBECONFIG")
            .envs(variables.iter().map(|(key, value)| (key.as_str(), value.as_str())))
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), printed)
    }
}

fn expectation(line: &str) -> (&str, Expectation) {
    type Make = fn(String) -> Expectation;
    let arrows: [(&str, Make); 3] =
        [(" => ", Expectation::Prints), (" !> ", Expectation::Fails), (" ~> ", Expectation::Comes)];
    for (arrow, make) in arrows {
        if let Some((command, text)) = line.rsplit_once(arrow) {
            return (command, make(text.to_owned()));
        }
    }
    (line, Expectation::Succeeds)
}
