//! Exec and attach, with and without terminals.

use std::time::Duration;

use runtime::{
    RuntimeError, Session,
    api::{AttachRequest, ExecRequest, TerminalSize},
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::instance::{Instance, PATIENCE, possible};

fn request(command: &str, tty: bool, stdin: bool) -> ExecRequest {
    ExecRequest { command: command.split_whitespace().map(str::to_owned).collect(), tty, stdin, env: vec![] }
}

async fn all(session: &mut Session) -> String {
    let mut text = String::new();
    let read = session.stdout.as_mut().unwrap().read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_returns_output_code_and_failures() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    let output = instance.exec(&id, "/probe out a , err b , bytes 100000 , exit 4").await.unwrap();
    assert_eq!((output.exit_code, &output.stdout[..2], &output.stderr[..]), (4, &b"a\n"[..], &b"b\n"[..]));
    assert_eq!(output.stdout.len(), runtime::EXEC_OUTPUT_BYTES_MAX);
    // The second command runs under the filter that the first one left compiled.
    let output = instance.exec(&id, "/probe unshare , fork").await.unwrap();
    assert_eq!(output.stdout, b"unshare: Operation not permitted\nfork: 9\n");
    let output = instance.exec(&id, "/probe raise 15").await.unwrap();
    assert_eq!(output.exit_code, 143);
    for (command, explanation, code) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH: unknown", 127),
        ("/plain", "exec: \"/plain\": permission denied: unknown", 126),
    ] {
        let error = instance.exec(&id, command).await.unwrap_err();
        assert!(error.to_string().ends_with(explanation), "{error}");
        assert!(matches!(error, RuntimeError::Exec { exit_code, .. } if exit_code == code), "{error:?}");
    }
    let timeout = Duration::from_millis(300);
    let command = ["/probe", "sleep", "1000"].map(str::to_owned).to_vec();
    let error = instance.runtime().exec_sync(&id, command, timeout).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ExecTimeout(_)), "{error}");
    while instance.runtime().container_stats(&id).unwrap().pids != 1 {
        tokio::task::yield_now().await;
    }
    let error = instance.exec(&runtime::api::ContainerId("no".into()), "x").await.unwrap_err();
    assert!(matches!(error, RuntimeError::ContainerNotFound(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_streams_its_input() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    let mut session = instance.runtime().exec(&id, request("/probe echo , exit 2", false, true)).await.unwrap();
    let mut input = session.stdin.take().unwrap();
    input.write_all(b"one\ntwo\n").await.unwrap();
    drop(input);
    assert_eq!(all(&mut session).await, "got one\ngot two\nend of input\n");
    assert_eq!(session.wait().await.unwrap(), 2);
    let mut session = instance.runtime().exec(&id, request("/probe echo", false, false)).await.unwrap();
    assert_eq!(all(&mut session).await, "end of input\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal_has_one() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "sleep 1000").await;
    let id = instance.start(&sandbox, config).await;
    let command = "/probe tty , env TERM , wait-size , out done , exit 6";
    let mut session = instance.runtime().exec(&id, request(command, true, true)).await.unwrap();
    session.resizer().resize(TerminalSize { width: 100, height: 40 }).unwrap();
    let text = all(&mut session).await;
    assert!(text.contains("tty=1 ") && text.contains("/dev/pts/"), "{text}");
    assert!(text.contains("TERM=xterm\r\n") && text.contains("size 100x40\r\n"), "{text}");
    assert_eq!(session.wait().await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_the_first_process() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let mut config = instance.container_config("main", "echo , exit 8").await;
    config.stdin = true;
    config.stdin_once = true;
    let id = instance.start(&sandbox, config).await;
    let wanted = AttachRequest { stdin: true, stdout: true, stderr: true };
    let mut session = instance.runtime().attach(&id, wanted).await.unwrap();
    let mut input = session.stdin.take().unwrap();
    input.write_all(b"one\n").await.unwrap();
    let mut lines = BufReader::new(session.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "got one");
    drop(input);
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "end of input");
    assert_eq!(session.wait().await.unwrap(), 8);
    assert_eq!(instance.log(&id), "got one\nend of input\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_a_terminal_can_type_and_resize() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let mut config = instance.container_config("main", "tty , wait-size , echo").await;
    config.stdin = true;
    config.tty = true;
    let id = instance.start(&sandbox, config).await;
    let wanted = AttachRequest { stdin: true, stdout: true, stderr: true };
    let mut session = instance.runtime().attach(&id, wanted).await.unwrap();
    assert!(session.stderr.is_none());
    session.resizer().resize(TerminalSize { width: 90, height: 30 }).unwrap();
    let mut input = session.stdin.take().unwrap();
    input.write_all(b"typed\n\x04").await.unwrap();
    let text = all(&mut session).await;
    assert!(text.contains("got typed\r\n") && text.contains("end of input\r\n"), "{text}");
    assert_eq!(instance.exit(&id).await, 0);
    assert!(instance.log(&id).contains("tty=1 "), "{}", instance.log(&id));
}
