//! Where a walk stands inside an object: a chain on the stack, rendered only for errors.

use std::fmt;

#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    /// A field of a structure.
    Field(&'a Path<'a>, &'a str),
    /// A key of a map.
    Key(&'a Path<'a>, &'a str),
    /// An element of a list.
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// Names of the structure fields alone, joined by dots: how Go's decoder names a field.
    pub(crate) fn fields(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(above, _) | Self::Item(above, _) => above.fields(),
            Self::Field(above, name) => match above.fields() {
                path if path.is_empty() => (*name).to_owned(),
                path => format!("{path}.{name}"),
            },
        }
    }

    /// The path as validation prints it, with map keys in brackets: `metadata.labels[app]`.
    pub(crate) fn bracketed(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(Self::Root, name) => (*name).to_owned(),
            Self::Field(above, name) => format!("{}.{name}", above.bracketed()),
            Self::Key(above, name) => format!("{}[{name}]", above.bracketed()),
            Self::Item(above, at) => format!("{}[{at}]", above.bracketed()),
        }
    }
}

/// The path as the strict decoder prints it: `spec.containers[0].image`.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) | Self::Key(Self::Root, name) => f.write_str(name),
            Self::Field(above, name) | Self::Key(above, name) => write!(f, "{above}.{name}"),
            Self::Item(above, at) => write!(f, "{above}[{at}]"),
        }
    }
}
