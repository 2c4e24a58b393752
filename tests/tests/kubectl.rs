//! Real kubectl: every command that needs no container, with its main flags, as scenarios in `kubectl/`.

use system_tests::{Instance, Options};

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                Instance::start(Options::default()).play(name, include_str!(concat!("kubectl/", stringify!($name), ".txt")));
            }
        )*
    };
}

scenarios!(
    access,
    apply,
    certificates,
    create,
    delete,
    edit,
    explain,
    get,
    jobs,
    migration,
    namespaces,
    nodes,
    quotas,
    rollout,
    tools,
    wait,
);
