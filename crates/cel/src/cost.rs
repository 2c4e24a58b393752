//! What evaluation costs: ranges estimated when an expression is compiled, and the constants that both sides share.
//!
//! The unit is abstract: reading a variable or a field is 1, and everything else is in proportion. Estimates decide which
//! rules a CustomResourceDefinition may hold, so they agree with the reference implementation to the unit.

use crate::types::Type;
use crate::value::Value;

/// Cost of going over one character of text or one byte.
pub const STRING_TRAVERSAL_FACTOR: f64 = 0.1;
/// Cost of one character of a regular expression per character that it is matched against.
pub const REGEX_LENGTH_FACTOR: f64 = 0.25;
/// Cost of reading a variable or a field.
pub const SELECT: u64 = 1;
/// Cost of making a list.
pub const LIST_CREATE: u64 = 10;
/// Cost of making a map.
pub const MAP_CREATE: u64 = 30;
/// Cost of making an object.
pub const OBJECT_CREATE: u64 = 40;

/// `x * factor`, rounded up.
pub fn scale(x: u64, factor: f64) -> u64 {
    // Casts from float saturate, which is what is wanted of an unknown size.
    (x as f64 * factor).ceil() as u64
}

/// How large a text, list, map or byte sequence can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeEstimate {
    /// At least this.
    pub min: u64,
    /// At most this.
    pub max: u64,
}

/// What evaluating can cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    /// At least this.
    pub min: u64,
    /// At most this.
    pub max: u64,
}

/// The arithmetic of ranges, which is the same for sizes and costs.
macro_rules! range {
    ($range:ident) => {
        impl $range {
            /// Exactly this.
            pub fn fixed(value: u64) -> Self {
                Self { min: value, max: value }
            }

            /// Sum, saturating.
            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
            }

            /// Product, saturating.
            #[must_use]
            pub fn multiply(self, other: Self) -> Self {
                Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
            }

            /// The range that covers both.
            #[must_use]
            pub fn union(self, other: Self) -> Self {
                Self { min: self.min.min(other.min), max: self.max.max(other.max) }
            }
        }
    };
}

range!(SizeEstimate);
range!(CostEstimate);

impl SizeEstimate {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    /// From `min` to `max`.
    pub fn new(min: u64, max: u64) -> Self {
        Self { min, max }
    }

    /// The cost of going over it at `factor` per unit.
    pub fn cost(self, factor: f64) -> CostEstimate {
        CostEstimate { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    /// The cost of paying `cost` per unit.
    pub fn times(self, cost: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min, max: self.max }.multiply(cost)
    }
}

impl CostEstimate {
    /// Multiplied by `factor`, rounded up.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        Self { min: scale(self.min, factor), max: scale(self.max, factor) }
    }
}

/// What one call costs beyond its arguments, and how large its result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEstimate {
    /// Cost without the cost of evaluating the arguments.
    pub cost: CostEstimate,
    /// Size of the result, for calls that make text, bytes, lists or maps.
    pub size: Option<SizeEstimate>,
}

impl CallEstimate {
    /// A call that always costs the same.
    pub fn fixed(cost: u64) -> Self {
        Self { cost: CostEstimate::fixed(cost), size: None }
    }

    /// A call whose result has no size worth knowing.
    pub fn cost(cost: CostEstimate) -> Self {
        Self { cost, size: None }
    }

    /// A call whose result has a size.
    pub fn sized(cost: CostEstimate, size: SizeEstimate) -> Self {
        Self { cost, size: Some(size) }
    }
}

/// One operand of a call, as its estimate sees it.
#[derive(Clone, Debug)]
pub struct Operand<'e> {
    /// The type that the checker found.
    pub ty: Type,
    /// The size; [`SizeEstimate::UNKNOWN`] where nothing is known.
    pub size: SizeEstimate,
    /// The size of a list's elements; `None` where the operand is no list of a known type.
    pub item_size: Option<SizeEstimate>,
    /// The value, where the operand is a literal.
    pub literal: Option<&'e Value<'static>>,
}

/// A call, as its estimate sees it.
#[derive(Clone, Debug)]
pub struct Call<'e> {
    /// Name of the function.
    pub function: &'e str,
    /// Id of the overload.
    pub overload: &'e str,
    /// The operands: the receiver of a member function first.
    pub operands: Vec<Operand<'e>>,
}

impl Call<'_> {
    /// Size of an operand; unknown where there is none.
    pub fn size(&self, at: usize) -> SizeEstimate {
        self.operands.get(at).map_or(SizeEstimate::UNKNOWN, |operand| operand.size)
    }
}

/// What the caller knows of the sizes of declared values.
pub trait Sizes {
    /// How large the value at a path can be. The path starts with a variable; what follows is a field name, `@items` for
    /// the elements of a list, or `@keys` and `@values` of a map. It is empty for values that no path leads to, of which
    /// only the type is known.
    fn size(&self, path: &[String], ty: &Type) -> Option<SizeEstimate>;
}

/// Nothing is known of any value.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnknownSizes;

impl Sizes for UnknownSizes {
    fn size(&self, _: &[String], _: &Type) -> Option<SizeEstimate> {
        None
    }
}
