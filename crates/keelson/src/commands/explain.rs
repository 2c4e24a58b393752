//! `keelson config explain`.

use crate::{cli::Up, exit::Failure};

/// Prints every setting with its value, origin and meaning.
pub(crate) fn main(flags: &Up) -> Result<(), Failure> {
    let (_, explained) = super::settings(flags)?;
    for row in explained {
        println!("{} = {:?}", row.setting.key, row.value);
        println!("    from {}; environment {}; default {:?}", row.origin, row.setting.environment, row.setting.default);
        println!("    {}", row.setting.about);
    }
    Ok(())
}
