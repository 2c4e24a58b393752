//! Real kubectl.

use std::{
    env,
    ffi::OsString,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use crate::Instance;

/// The kubectl that tests use, by its whole path: scenarios put a wrapper of that name first on PATH.
pub fn binary() -> OsString {
    let named = env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let directories = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&directories).map(|directory| directory.join(&named)).find(|path| path.is_file());
    found.map_or(named, PathBuf::into_os_string)
}

impl Instance {
    /// A kubectl command against this instance, as its administrator, with nothing of the user's environment.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        // The discovery cache lives below HOME and must not be shared between instances that reuse a port.
        command.env("HOME", self.data_dir()).env_remove("KUBECONFIG").stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end.
    pub fn kubectl_output(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments).output().expect("kubectl runs")
    }

    /// Runs kubectl, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_output(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {errors}{printed}", arguments.join(" "));
        printed
    }

    /// Runs kubectl, which must fail, and returns its errors.
    #[track_caller]
    pub fn kubectl_fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.with_input(arguments, input);
        assert!(!output.status.success(), "kubectl {} succeeded", arguments.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs kubectl with this input: what it printed, or its errors.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let output = self.with_input(arguments, input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// `kubectl get … -o json`; `None` where the object is not there.
    pub fn get(&self, arguments: &[&str]) -> Option<Value> {
        let mut all = vec!["get"];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&["-o", "json"]);
        let output = self.kubectl_output(&all);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("kubectl prints JSON"))
    }

    /// `kubectl apply -f -`.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let output = self.with_input(&["apply", "-f", "-"], manifest);
        assert!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts kubectl and leaves it running; the caller ends it.
    pub fn kubectl_spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.kubectl_command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts")
    }

    fn with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.kubectl_command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        // kubectl may end before it has read everything; its exit status tells.
        let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }
}
