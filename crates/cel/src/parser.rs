//! Tokens as a syntax tree: recursive descent, with macros expanded on the way.

mod lexer;
mod macros;

use std::sync::Arc;

use crate::ast::{Entry, Expr, FieldInit, Id, Item, Kind, Tree};
use crate::issue::Issue;
use crate::library::names;
use crate::value::Value;
use lexer::{Token, TokenKind};

/// How deep expressions nest and how long chains of operators get; the reference has the same bound.
const DEPTH_MAX: usize = 250;
/// How high the tree may get, macros expanded: everything that walks it recurses.
const HEIGHT_MAX: u16 = 400;
/// Characters of one expression, likewise.
const CODE_POINTS_MAX: usize = 100_000;

/// Words that are no names, though they mean nothing yet.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];
/// Whether `name` is a word of the language, which nothing else may be called.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || lexer::WORDS.contains(&name)
}

const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                        BYTES, IDENTIFIER}";

/// Binary operators: symbol, function, and how tightly they bind.
const OPERATORS: [(&str, &str, u8); 14] = [
    ("||", names::OR, 1),
    ("&&", names::AND, 2),
    ("<", names::LESS, RELATION),
    ("<=", names::LESS_EQUALS, RELATION),
    (">=", names::GREATER_EQUALS, RELATION),
    (">", names::GREATER, RELATION),
    ("==", names::EQUALS, RELATION),
    ("!=", names::NOT_EQUALS, RELATION),
    ("in", names::IN, RELATION),
    ("+", names::ADD, 4),
    ("-", names::SUBTRACT, 4),
    ("*", names::MULTIPLY, 5),
    ("/", names::DIVIDE, 5),
    ("%", names::MODULO, 5),
];
/// Operators that bind less tightly are the logical ones.
const RELATION: u8 = 3;

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Tree, Vec<Issue>> {
    let one = |issue| vec![issue];
    let length = source.chars().count();
    if length > CODE_POINTS_MAX {
        let text = format!("expression code point size exceeds limit: size: {length}, limit {CODE_POINTS_MAX}");
        return Err(one(Issue { position: 0, text }));
    }
    let tokens = lexer::tokens(source).map_err(one)?;
    let mut parser = Parser {
        source,
        tokens,
        at: 0,
        positions: vec![0],
        heights: vec![0],
        too_high: false,
        depth: 0,
        issues: Vec::new(),
    };
    let root = parser.expression().map_err(one)?;
    if parser.too_high {
        return Err(one(parser.too_deep()));
    }
    if !matches!(parser.kind(), TokenKind::End) {
        let last = parser.tokens.len() - parser.at == 2;
        let problem = if last { "extraneous" } else { "mismatched" };
        let text = format!("Syntax error: {problem} input '{}' expecting <EOF>", parser.text());
        return Err(vec![Issue { position: parser.start(), text }]);
    }
    if parser.issues.is_empty() { Ok(Tree { root, positions: parser.positions }) } else { Err(parser.issues) }
}

/// The state of parsing.
struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token<'s>>,
    at: usize,
    positions: Vec<u32>,
    heights: Vec<u16>,
    too_high: bool,
    depth: usize,
    /// What does not keep the rest from being parsed.
    issues: Vec<Issue>,
}

type Result<T, E = Issue> = std::result::Result<T, E>;

impl<'s> Parser<'s> {
    fn kind(&self) -> &TokenKind<'s> {
        &self.tokens[self.at].kind
    }

    fn start(&self) -> usize {
        self.tokens[self.at].start
    }

    fn text(&self) -> &'s str {
        let token = &self.tokens[self.at];
        if matches!(token.kind, TokenKind::End) { "<EOF>" } else { &self.source[token.start..token.end] }
    }

    fn advance(&mut self) {
        // The end is never passed.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.kind(), TokenKind::Symbol(own) if *own == symbol)
    }

    fn accept(&mut self, symbol: &str) -> bool {
        let is = self.is(symbol);
        if is {
            self.advance();
        }
        is
    }

    fn expect(&mut self, symbol: &str) -> Result<()> {
        if self.accept(symbol) { Ok(()) } else { Err(self.mismatch(&format!("'{symbol}'"))) }
    }

    fn mismatch(&self, expected: &str) -> Issue {
        let text = format!("Syntax error: mismatched input '{}' expecting {expected}", self.text());
        Issue { position: self.start(), text }
    }

    fn id(&mut self, position: usize) -> Id {
        self.positions.push(u32::try_from(position).unwrap_or(u32::MAX));
        self.heights.push(0);
        (self.positions.len() - 1) as Id
    }

    fn expr(&mut self, position: usize, kind: Kind) -> Expr {
        let id = self.id(position);
        let height = kind.children().map(|child| self.heights[child.id as usize]).max().unwrap_or(0) + 1;
        self.heights[id as usize] = height;
        self.too_high |= height > HEIGHT_MAX;
        Expr { id, kind }
    }

    fn call(&mut self, position: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.expr(position, Kind::Call { function: function.into(), target: None, args })
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX || self.too_high {
            return Err(self.too_deep());
        }
        Ok(())
    }

    fn too_deep(&self) -> Issue {
        Issue { position: self.start(), text: format!("expression recursion limit exceeded: {DEPTH_MAX}") }
    }

    /// `binary ('?' binary ':' expression)?`
    fn expression(&mut self) -> Result<Expr> {
        self.deeper()?;
        let condition = self.binary(1)?;
        let position = self.start();
        let result = if self.accept("?") {
            let then = self.binary(1)?;
            self.expect(":")?;
            let otherwise = self.expression()?;
            self.call(position, names::CONDITIONAL, vec![condition, then, otherwise])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(result)
    }

    fn operator(&self, tightness_min: u8) -> Option<(&'static str, &'static str, u8)> {
        let TokenKind::Symbol(symbol) = *self.kind() else { return None };
        OPERATORS.into_iter().find(|(own, _, tightness)| *own == symbol && *tightness >= tightness_min)
    }

    /// Terms joined by operators that bind at least this tightly, from the left.
    fn binary(&mut self, tightness_min: u8) -> Result<Expr> {
        let mut left = self.unary()?;
        let mut links = 0;
        while let Some((symbol, function, tightness)) = self.operator(tightness_min) {
            if tightness < RELATION {
                left = self.logical(left, symbol, function, tightness)?;
                continue;
            }
            let position = self.start();
            self.advance();
            let right = self.binary(tightness + 1)?;
            left = self.call(position, function, vec![left, right]);
            links += 1;
            if links + self.depth > DEPTH_MAX || self.too_high {
                return Err(self.too_deep());
            }
        }
        Ok(left)
    }

    /// Terms joined by one logical operator, as a balanced tree: such chains may be long.
    fn logical(&mut self, first: Expr, symbol: &str, function: &str, tightness: u8) -> Result<Expr> {
        let mut terms = vec![first];
        let mut positions = Vec::new();
        while self.is(symbol) {
            positions.push(self.start());
            self.advance();
            terms.push(self.binary(tightness + 1)?);
        }
        Ok(self.balance(function, terms, &positions))
    }

    fn balance(&mut self, function: &str, mut terms: Vec<Expr>, positions: &[usize]) -> Expr {
        if positions.is_empty() {
            // One term more than operators.
            return terms.swap_remove(0);
        }
        let middle = positions.len() / 2;
        let right = terms.split_off(middle + 1);
        let left = self.balance(function, terms, &positions[..middle]);
        let right = self.balance(function, right, &positions[middle + 1..]);
        self.call(positions[middle], function, vec![left, right])
    }

    fn unary(&mut self) -> Result<Expr> {
        let position = self.start();
        for (symbol, function) in [("!", names::NOT), ("-", names::NEGATE)] {
            // A minus before a number belongs to the number.
            if !self.is(symbol) || (symbol == "-" && self.negative_number()) {
                continue;
            }
            let mut times = 0;
            while self.is(symbol) {
                self.advance();
                times += 1;
            }
            let operand = self.member()?;
            return Ok(if times % 2 == 1 { self.call(position, function, vec![operand]) } else { operand });
        }
        self.member()
    }

    fn negative_number(&self) -> bool {
        let next = self.tokens.get(self.at + 1).map(|token| &token.kind);
        self.is("-") && matches!(next, Some(TokenKind::Int(_) | TokenKind::Double(_)))
    }

    /// A primary expression with selections, calls and indexes behind it.
    fn member(&mut self) -> Result<Expr> {
        let mut operand = self.primary()?;
        let mut links = 0;
        while [".", "[", "{"].iter().any(|symbol| self.is(symbol)) {
            if self.is("{") && operand.qualified_name().is_none() {
                break;
            }
            operand = self.suffix(operand)?;
            links += 1;
            if links + self.depth > DEPTH_MAX || self.too_high {
                return Err(self.too_deep());
            }
        }
        Ok(operand)
    }

    /// One selection, call, index or list of fields.
    fn suffix(&mut self, operand: Expr) -> Result<Expr> {
        let position = self.start();
        if self.accept("[") {
            let function = if self.accept("?") { names::INDEX_OPTIONAL } else { names::INDEX };
            let index = self.expression()?;
            self.expect("]")?;
            return Ok(self.call(position, function, vec![operand, index]));
        }
        if self.accept("{") {
            let name = operand.qualified_name().unwrap_or_default();
            let fields = self.fields()?;
            return Ok(self.expr(position, Kind::Object { name: name.into(), fields }));
        }
        self.expect(".")?;
        self.selection(position, operand)
    }

    fn selection(&mut self, position: usize, operand: Expr) -> Result<Expr> {
        let optional = self.accept("?");
        let quoted = matches!(self.kind(), TokenKind::Quoted(_));
        let (TokenKind::Ident(name) | TokenKind::Quoted(name)) = *self.kind() else {
            return Err(self.mismatch("IDENTIFIER"));
        };
        self.advance();
        let open = self.start();
        if optional {
            let field = self.expr(position, Kind::Literal(Value::string(name.to_owned())));
            return Ok(self.call(position, names::SELECT_OPTIONAL, vec![operand, field]));
        }
        if !quoted && self.accept("(") {
            let args = self.arguments()?;
            return self.member_call(open, operand, name, args);
        }
        Ok(self.expr(position, Kind::Select { operand: Box::new(operand), field: name.into(), test: false }))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if !self.accept(",") {
                self.expect(")")?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        if self.accept("(") {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        self.operand()
    }

    /// A primary expression without parentheses: they nest deepest, and should take little stack.
    fn operand(&mut self) -> Result<Expr> {
        let position = self.start();
        match *self.kind() {
            TokenKind::Literal(ref value) => {
                let kind = Kind::Literal(value.clone());
                self.advance();
                Ok(self.expr(position, kind))
            }
            TokenKind::Int(_) | TokenKind::Uint(_) | TokenKind::Double(_) => self.number(position, false),
            TokenKind::Symbol("-") if self.negative_number() => {
                self.advance();
                self.number(position, true)
            }
            TokenKind::Symbol(word @ ("true" | "false" | "null")) => {
                self.advance();
                let value = if word == "null" { Value::Null } else { Value::Bool(word == "true") };
                Ok(self.expr(position, Kind::Literal(value)))
            }
            TokenKind::Symbol("[") => {
                self.advance();
                let items = self.items()?;
                Ok(self.expr(position, Kind::List(items)))
            }
            TokenKind::Symbol("{") => {
                self.advance();
                let entries = self.entries()?;
                Ok(self.expr(position, Kind::Map(entries)))
            }
            TokenKind::Symbol(".") => {
                self.advance();
                self.name(position, ".")
            }
            TokenKind::Ident(_) => self.name(position, ""),
            _ => Err(self.mismatch(EXPECTED)),
        }
    }

    /// A name or a call of a function.
    fn name(&mut self, position: usize, dot: &str) -> Result<Expr> {
        let TokenKind::Ident(name) = *self.kind() else { return Err(self.mismatch("IDENTIFIER")) };
        if RESERVED.contains(&name) {
            self.issues.push(Issue { position: self.start(), text: format!("reserved identifier: {name}") });
        }
        self.advance();
        let open = self.start();
        if self.accept("(") {
            let args = self.arguments()?;
            return self.global_call(open, &format!("{dot}{name}"), args);
        }
        Ok(self.expr(position, Kind::Ident(format!("{dot}{name}").into())))
    }

    fn number(&mut self, position: usize, negative: bool) -> Result<Expr> {
        let sign = if negative { "-" } else { "" };
        let invalid = |kind: &str| Issue { position, text: format!("invalid {kind} literal") };
        let value = match *self.kind() {
            TokenKind::Int(text) => {
                let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(digits) => i64::from_str_radix(&format!("{sign}{digits}"), 16),
                    None => format!("{sign}{text}").parse(),
                };
                Value::Int(value.map_err(|_| invalid("int"))?)
            }
            TokenKind::Uint(text) => {
                let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => text.parse(),
                };
                Value::Uint(value.map_err(|_| invalid("uint"))?)
            }
            TokenKind::Double(text) => match format!("{sign}{text}").parse::<f64>() {
                Ok(value) if value.is_finite() => Value::Double(value),
                _ => return Err(invalid("double")),
            },
            _ => return Err(self.mismatch("NUM_INT")),
        };
        self.advance();
        Ok(self.expr(position, Kind::Literal(value)))
    }

    /// The rest of a list after its bracket.
    fn items(&mut self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        while !self.accept("]") {
            let optional = self.accept("?");
            items.push(Item { optional, value: self.expression()? });
            if !self.accept(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(items)
    }

    /// The rest of a map after its brace.
    fn entries(&mut self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push(Entry { optional, key, value: self.expression()? });
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(entries)
    }

    /// The rest of an object after its brace.
    fn fields(&mut self) -> Result<Vec<FieldInit>> {
        let mut fields = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let (TokenKind::Ident(name) | TokenKind::Quoted(name)) = *self.kind() else {
                return Err(self.mismatch("{'}', IDENTIFIER}"));
            };
            self.advance();
            let id = self.id(self.start());
            self.expect(":")?;
            let name: Arc<str> = name.into();
            fields.push(FieldInit { id, optional, name, value: self.expression()? });
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(fields)
    }
}
