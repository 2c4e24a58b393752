use super::*;

#[test]
fn patterns_match_what_the_reference_matches() {
    for (pattern, text, matches) in [
        // ASCII alone
        (r"^\d$", "٣", false),
        (r"^\w$", "é", false),
        (r"^\W$", "é", true),
        (r"^\s$", "\u{b}", false),
        (r"^\S$", "\u{b}", true),
        (r"^[\d_]$", "_", true),
        (r"^[^\D]$", "7", true),
        (r"^[\W]$", "é", true),
        (r"^[\S ]$", " ", true),
        (r"é\b", "é", false),
        (r"e\b", "e", true),
        // Unicode where it is named
        (r"^\p{L}\pN$", "é٣", true),
        (r"^\p{Greek}+$", "πέντε", true),
        (r"^\P{Greek}$", "a", true),
        (r"^\p{^Lu}$", "a", true),
        (r"^[\p{Lu}_]$", "É", true),
        (r"(?i)^É$", "é", true),
        // brackets and operators in classes
        (r"^[^[]$", "a", true),
        (r"^[[a]]$", "a]", true),
        (r"^[a&&b]+$", "a&b", true),
        (r"^[!--]$", "-", true),
        (r"^[~~]$", "~", true),
        (r"^[]a]+$", "]a", true),
        (r"^[^]a]$", "b", true),
        (r"^[a-]$", "-", true),
        (r"^[[:alpha:]\-]+$", "a-b", true),
        (r"^[\x41-\x{43}]$", "B", true),
        // text that looks like something else
        ("^a{,2}$", "a{,2}", true),
        ("^a{$", "a{", true),
        ("^a{x}$", "a{x}", true),
        ("^a{2,3}$", "aaa", true),
        (r"^\Qa.b*\E+$", "a.b**", true),
        (r"^\Q(", "(", true),
        (r"^\101\0$", "A\0", true),
        (r"^\<\_\>$", "<_>", true),
        (r"^\a\f\t\n\r\v$", "\u{7}\u{c}\t\n\r\u{b}", true),
        // the usual
        (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "a-b.c", true),
        (r"^(?P<a>x)(?<b>y)(?i:Z)(?s-m)$", "xyz", true),
        ("a||b", "", true),
        ("^a.$", "a\n", false),
        (r"\Aa\z", "a", true),
        ("^a*?b+?c??$", "b", true),
    ] {
        let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(regex.is_match(text), matches, "{pattern} on {text:?}");
    }
}

#[test]
fn mistakes_are_told_in_the_words_of_the_reference() {
    for (pattern, what) in [
        ("(", "missing closing ): `(`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\p{!}", r"invalid character class range: `\p{!}`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a|+", "missing argument to repetition operator: `+`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a*?+", "invalid nested repetition operator: `*?+`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        (r"\u0041", r"invalid escape sequence: `\u`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\xZZ", r"invalid escape sequence: `\x"),
        (r"[\b]", r"invalid escape sequence: `\b`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?P<a-b>x)", "invalid named capture: `(?P<a-b>`"),
        ("(((a{1000}){1000}){1000}){1000}", "expression too large"),
    ] {
        let error = compile(pattern).expect_err(pattern).to_string();
        assert!(error.starts_with(&format!("error parsing regexp: {what}")), "{pattern}: {error}");
    }
    assert!(compile(r"\p{Nothing}").is_err());
}

#[test]
fn patterns_without_classes_of_unicode_need_ascii_alone() {
    assert_eq!(translate(r"^\d+\b").unwrap().ascii().as_deref(), Some(r"^[0-9]+\b"));
    assert_eq!(translate(r"^\p{L}$").unwrap().ascii(), None);
}
