//! C2SP tlog-policy: the logs to follow, the known witnesses, and how many of them must have cosigned
//! a checkpoint.
//!
//! ```text
//! log      ledger.example/eu+5c2f…+AYt…
//! witness  W1 witness.example/w1+8d6c…+BI… https://witness.example/w1
//! witness  W2 witness.example/w2+1b90…+BK… https://witness.example/w2
//! witness  W3 witness.example/w3+a3c7…+BO… https://witness.example/w3
//! group    two-of-three 2 W1 W2 W3
//! quorum   two-of-three
//! ```
//!
//! A witness or log whose key has a signature type that this program can not verify, such as ML-DSA-44, is
//! passed over: it never counts as having signed. A policy that can not be met without one is refused.

use thiserror::Error;

use super::{
    key::{Algorithm, KeyError, OtherKey, VerifierKey},
    note::{Note, SignatureError},
};

/// Maximum number of logs, of witnesses and of groups in a policy.
pub const POLICY_ITEMS_MAX: usize = 64;

/// The trusted logs and witnesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<Witness>,
    /// Witnesses that are passed over.
    passed_over: Vec<PassedOver>,
    groups: Vec<Group>,
    /// None: no cosignature is needed.
    quorum: Option<Member>,
}

/// A witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Name within the policy.
    pub name: String,
    /// The key that verifies its cosignatures.
    pub key: VerifierKey,
    /// Its submission prefix, if the policy names it.
    pub url: Option<String>,
}

/// A witness whose cosignatures this program can not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PassedOver {
    /// Name within the policy.
    name: String,
    key: OtherKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Witness(usize),
    PassedOver(usize),
    Group(usize),
}

/// An error in a line of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct PolicyError {
    /// Number of the line, from 1; the last line if something is missing.
    pub line: usize,
    /// The problem.
    pub problem: String,
}

/// Why a checkpoint does not meet a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unmet {
    /// A cosignature names a known witness but does not verify.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Too few witnesses have cosigned it.
    #[error(
        "the checkpoint is cosigned by {count} of {of} known witnesses, which the policy says is too few"
    )]
    Quorum {
        /// Number of witnesses that have cosigned it.
        count: usize,
        /// Number of witnesses in the policy.
        of: usize,
    },
}

impl Policy {
    /// The policy that requires no witness.
    #[must_use]
    pub fn none() -> Self {
        Self {
            logs: Vec::new(),
            witnesses: Vec::new(),
            passed_over: Vec::new(),
            groups: Vec::new(),
            quorum: None,
        }
    }

    /// The policy that requires any `threshold` of some witnesses; 0 requires none.
    ///
    /// # Errors
    /// There are fewer witnesses, or one is listed twice.
    pub fn any_of(threshold: usize, witnesses: Vec<Witness>) -> Result<Self, PolicyError> {
        let wrong = |problem: String| PolicyError { line: 1, problem };
        for (at, witness) in witnesses.iter().enumerate() {
            check_witness(&witness.key).map_err(wrong)?;
            if witnesses[..at].iter().any(|one| one.key.public_key() == witness.key.public_key()) {
                return Err(wrong(format!("witness {} comes twice", witness.key.name())));
            }
        }
        let count = witnesses.len();
        if threshold > count || count > POLICY_ITEMS_MAX {
            return Err(wrong(format!("a quorum of {threshold} of {count} witnesses can not be")));
        }
        let members = (0..count).map(Member::Witness).collect();
        let groups = vec![Group { name: "quorum".to_owned(), threshold, members }];
        let quorum = (threshold > 0).then_some(Member::Group(0));
        Ok(Self { witnesses, groups, quorum, ..Self::none() })
    }

    /// Parses the text of a policy.
    ///
    /// # Errors
    /// The first wrong line.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut parser =
            Parser { policy: Self::none(), quorum: None, taken: Vec::new(), other_logs: 0 };
        let mut last = 0;
        for (line, text) in (1..).zip(text.split('\n')) {
            parser.line(text).map_err(|problem| PolicyError { line, problem })?;
            last = line;
        }
        let quorum = parser.quorum.ok_or_else(|| PolicyError {
            line: last,
            problem: "a policy has exactly one quorum line; `quorum none` asks for no witness"
                .into(),
        })?;
        let unmet = |problem: String| PolicyError { line: last, problem };
        if parser.policy.logs.is_empty() && parser.other_logs > 0 {
            return Err(unmet(format!(
                "no log has a key that can be used: it {}",
                KeyError::Algorithm
            )));
        }
        let policy = Self { quorum, ..parser.policy };
        if policy.quorum.is_some_and(|quorum| !policy.is_met(quorum, &|_| true)) {
            let names: Vec<&str> = policy.passed_over().collect();
            return Err(unmet(format!(
                "the quorum can not be reached without {}, whose key {}",
                names.join(", "),
                KeyError::Algorithm
            )));
        }
        Ok(policy)
    }

    /// The logs of the policy; it may name none.
    #[must_use]
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// The witnesses of the policy.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Names of the keys of witnesses whose cosignatures this program can not verify. They never count.
    pub fn passed_over(&self) -> impl Iterator<Item = &str> {
        self.passed_over.iter().map(|witness| witness.key.name())
    }

    /// Whether it requires a cosignature.
    #[must_use]
    pub fn asks_for_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// The witnesses that have cosigned a checkpoint, with the time of each in seconds since the
    /// Unix epoch.
    ///
    /// # Errors
    /// A signature names a known witness but does not verify: the note can not be trusted.
    pub fn cosigned(&self, note: &Note) -> Result<Vec<(&Witness, u64)>, SignatureError> {
        let mut cosigned = Vec::new();
        for witness in &self.witnesses {
            match note.verify(&witness.key) {
                Ok(time) => cosigned.push((witness, time.unwrap_or_default())),
                Err(SignatureError::Missing(_)) => {}
                Err(bad) => return Err(bad),
            }
        }
        Ok(cosigned)
    }

    /// Verifies that enough witnesses have cosigned a checkpoint. Returns how many have.
    ///
    /// # Errors
    /// See [`Unmet`].
    pub fn verify(&self, note: &Note) -> Result<usize, Unmet> {
        let cosigned = self.cosigned(note)?;
        let has = |witness: &Witness| cosigned.iter().any(|(signer, _)| signer.key == witness.key);
        if self.quorum.is_none_or(|quorum| self.is_met(quorum, &has)) {
            return Ok(cosigned.len());
        }
        Err(Unmet::Quorum { count: cosigned.len(), of: self.witnesses.len() })
    }

    /// Terminates, because a group refers only to earlier lines.
    fn is_met(&self, member: Member, has: &dyn Fn(&Witness) -> bool) -> bool {
        match member {
            Member::Witness(at) => has(&self.witnesses[at]),
            Member::PassedOver(_) => false,
            Member::Group(at) => {
                let group = &self.groups[at];
                let met = group.members.iter().filter(|member| self.is_met(**member, has));
                met.count() >= group.threshold
            }
        }
    }
}

/// The key of a witness must be a cosignature key: a log's signature has no time.
fn check_witness(key: &VerifierKey) -> Result<(), String> {
    if key.algorithm() == Algorithm::Cosignature {
        return Ok(());
    }
    Err(format!("the key of {} is a log's: a witness's has signature type 4", key.name()))
}

struct Parser {
    policy: Policy,
    #[expect(clippy::option_option, reason = "no line yet, or the line that asks for none")]
    quorum: Option<Option<Member>>,
    /// Names that are already members of a group.
    taken: Vec<Member>,
    /// Number of logs that are passed over.
    other_logs: usize,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
            return Err("a control character".to_owned());
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["log", key] | ["log", key, _] => self.log(key),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some(url)),
            ["group", name, threshold, members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.quorum(name),
            [other, ..] => Err(format!("`{other}` does not stand so in a policy")),
        }
    }

    fn log(&mut self, key: &str) -> Result<(), String> {
        let Some(key) = parse_key(key)?.known() else {
            self.other_logs += 1;
            return Ok(());
        };
        if key.algorithm() != Algorithm::Note {
            return Err(format!("the key of {} is a witness's, not a log's", key.name()));
        }
        let logs = &mut self.policy.logs;
        if logs.iter().any(|known| known.public_key() == key.public_key()) {
            return Err(format!("log {} comes twice", key.name()));
        }
        check_room(logs.len(), "logs")?;
        logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<&str>) -> Result<(), String> {
        self.check_new(name)?;
        let key = match parse_key(key)? {
            Parsed::Key(key) => key,
            Parsed::Other(key) => return self.pass_over(name, key),
        };
        check_witness(&key)?;
        let witnesses = &mut self.policy.witnesses;
        if witnesses.iter().any(|known| known.key.public_key() == key.public_key()) {
            return Err(format!("witness {} comes twice", key.name()));
        }
        check_room(witnesses.len(), "witnesses")?;
        witnesses.push(Witness { name: name.to_owned(), key, url: url.map(str::to_owned) });
        Ok(())
    }

    fn pass_over(&mut self, name: &str, key: OtherKey) -> Result<(), String> {
        let passed_over = &mut self.policy.passed_over;
        if passed_over.iter().any(|known| known.key.is_same_key(&key)) {
            return Err(format!("witness {} comes twice", key.name()));
        }
        check_room(passed_over.len(), "witnesses")?;
        passed_over.push(PassedOver { name: name.to_owned(), key });
        Ok(())
    }

    fn group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), String> {
        self.check_new(name)?;
        check_room(self.policy.groups.len(), "groups")?;
        let members: Result<Vec<_>, _> = members.iter().map(|member| self.member(member)).collect();
        let members = members?;
        for (at, member) in members.iter().enumerate() {
            if self.taken.contains(member) || members[..at].contains(member) {
                return Err("a member can be in one group, once".to_owned());
            }
        }
        let threshold = match threshold {
            "any" => Some(1),
            "all" => Some(members.len()),
            number => super::decimal(number).and_then(|number| usize::try_from(number).ok()),
        };
        let threshold = threshold.filter(|threshold| (1..=members.len()).contains(threshold));
        let threshold = threshold.ok_or_else(|| {
            format!("the threshold must be `any`, `all`, or 1 to {}", members.len())
        })?;
        self.taken.extend(&members);
        self.policy.groups.push(Group { name: name.to_owned(), threshold, members });
        Ok(())
    }

    fn quorum(&mut self, name: &str) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("a second quorum line".to_owned());
        }
        self.quorum = Some(if name == "none" { None } else { Some(self.member(name)?) });
        Ok(())
    }

    fn member(&self, name: &str) -> Result<Member, String> {
        let witness = self.policy.witnesses.iter().position(|known| known.name == name);
        let passed_over = self.policy.passed_over.iter().position(|known| known.name == name);
        let group = self.policy.groups.iter().position(|known| known.name == name);
        let found = witness
            .map(Member::Witness)
            .or(passed_over.map(Member::PassedOver))
            .or(group.map(Member::Group));
        found.ok_or_else(|| format!("no witness or group `{name}` stands before this line"))
    }

    fn check_new(&self, name: &str) -> Result<(), String> {
        if name == "none" || self.member(name).is_ok() {
            return Err(format!("the name `{name}` is taken"));
        }
        Ok(())
    }
}

/// The key of a line.
enum Parsed {
    Key(VerifierKey),
    Other(OtherKey),
}

impl Parsed {
    fn known(self) -> Option<VerifierKey> {
        match self {
            Self::Key(key) => Some(key),
            Self::Other(_) => None,
        }
    }
}

fn parse_key(text: &str) -> Result<Parsed, String> {
    let parsed = match VerifierKey::parse(text) {
        Err(KeyError::Algorithm) => OtherKey::parse(text).map(Parsed::Other),
        parsed => parsed.map(Parsed::Key),
    };
    parsed.map_err(|error: KeyError| format!("the key {error}"))
}

fn check_room(count: usize, items: &str) -> Result<(), String> {
    if count < POLICY_ITEMS_MAX {
        return Ok(());
    }
    Err(format!("more than {POLICY_ITEMS_MAX} {items}"))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::key::SignerKey;

    fn signer(n: u8) -> SignerKey {
        let name = format!("w{n}.example");
        SignerKey::from_seed(&name, Algorithm::Cosignature, &[n; 32]).unwrap()
    }

    fn policy(end: &str) -> Result<Policy, PolicyError> {
        let mut text = String::from("# known witnesses\n");
        for n in 1..=4 {
            text.push_str(&format!(
                "witness W{n}\t{} https://w{n}.example\n",
                signer(n).verifier()
            ));
        }
        Policy::parse(&(text + end))
    }

    fn note(cosigners: &[u8]) -> Note {
        let mut note = Note::new("log.example\n0\nroot\n".to_owned()).unwrap();
        cosigners.iter().for_each(|n| note.sign(&signer(*n), 1_000));
        note
    }

    #[test]
    fn groups_count_their_members() {
        let two_of_three =
            policy("group A 2 W1 W2 W3\ngroup B any W4\ngroup C all A B\nquorum C\n").unwrap();
        assert_eq!(two_of_three.verify(&note(&[1, 3, 4])), Ok(3));
        assert_eq!(two_of_three.verify(&note(&[1, 2, 3])), Err(Unmet::Quorum { count: 3, of: 4 }));
        assert_eq!(two_of_three.verify(&note(&[1, 1, 4])), Err(Unmet::Quorum { count: 2, of: 4 }));
        assert!(policy("quorum none").unwrap().verify(&note(&[])).is_ok());
        assert!(policy("quorum W2").unwrap().verify(&note(&[1])).is_err());
        assert!(policy("quorum W2").unwrap().verify(&note(&[2])).is_ok());
    }

    #[test]
    fn n_of_m_is_a_policy() {
        let policy_of = |threshold| {
            let witness =
                |n| Witness { name: format!("W{n}"), key: signer(n).verifier().clone(), url: None };
            Policy::any_of(threshold, vec![witness(1), witness(2)])
        };
        assert!(policy_of(2).unwrap().verify(&note(&[1])).is_err());
        assert!(policy_of(2).unwrap().verify(&note(&[1, 2])).is_ok());
        assert!(policy_of(0).unwrap().verify(&note(&[])).is_ok());
        assert!(policy_of(3).is_err());
    }

    /// A verifier key of an ML-DSA-44 witness, as C2SP tlog-cosignature writes it.
    fn ml_dsa_key(name: &str) -> String {
        let key = [&[6][..], &[7; 1_312]].concat();
        let id = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&key).finalize();
        format!("{name}+{}+{}", crate::hex(&id[..4]), crate::BASE64.encode(key))
    }

    #[test]
    fn a_witness_with_an_ml_dsa_key_is_passed_over() {
        let lines = format!("witness PQ {}\n", ml_dsa_key("pq.example"));
        let policy = |end: &str| policy(&format!("{lines}{end}"));
        let two_of_three = policy("group A 2 W1 W2 PQ\nquorum A\n").unwrap();
        assert_eq!(two_of_three.verify(&note(&[1, 2])), Ok(2));
        assert!(two_of_three.verify(&note(&[1])).is_err(), "it never counts");
        assert_eq!(two_of_three.passed_over().collect::<Vec<_>>(), ["pq.example"]);
        assert!(policy("quorum W1").unwrap().verify(&note(&[1])).is_ok());
        // A cosignature of such a key in the note is a line of an unknown key.
        let long = crate::BASE64.encode([&[1; 4][..], &[9; 8 + 2_420]].concat());
        let text = format!("{}— pq.example {long}\n", note(&[1]));
        assert!(policy("quorum W1").unwrap().verify(&Note::parse(&text).unwrap()).is_ok());
        for end in ["quorum PQ", "group A all W1 PQ\nquorum A"] {
            let error = policy(end).unwrap_err().to_string();
            assert!(error.contains("can not be reached without pq.example"), "{error}");
        }
        let error = policy(&format!("{}quorum W1", lines.replace("PQ", "PR"))).unwrap_err();
        assert!(error.problem.contains("comes twice"), "{error}");
        let renamed = lines.replace("pq.example", "pr.example");
        let error = Policy::parse(&format!("{renamed}quorum none\n")).unwrap_err();
        assert!(error.problem.contains("key id"), "{error}");
    }

    #[test]
    fn a_log_with_another_kind_of_key_is_passed_over_beside_one_that_can_be_used() {
        let log = SignerKey::from_seed("log.example", Algorithm::Note, &[9; 32]).unwrap();
        let other = format!("log {}\n", ml_dsa_key("log.example"));
        let both = Policy::parse(&format!("{other}log {}\nquorum none\n", log.verifier())).unwrap();
        assert_eq!(both.logs(), [log.verifier().clone()]);
        let error = Policy::parse(&format!("{other}quorum none\n")).unwrap_err();
        assert!(error.problem.contains("no log has a key that can be used"), "{error}");
    }

    #[test]
    fn a_false_cosignature_spoils_the_note() {
        let text = note(&[1, 2]).to_string().replace("log.example\n0", "log.example\n1");
        let note = Note::parse(&text).unwrap();
        let policy = policy("group A any W1 W2\nquorum A\n").unwrap();
        assert!(matches!(policy.verify(&note), Err(Unmet::Signature(SignatureError::Bad(_)))));
    }

    #[test]
    fn wrong_lines_are_named() {
        for (end, problem) in [
            ("", "exactly one quorum"),
            ("quorum W9", "no witness or group `W9`"),
            ("quorum W1\nquorum W2", "second quorum"),
            ("group A 3 W1 W2\nquorum A", "1 to 2"),
            ("group A 0 W1 W2\nquorum A", "1 to 2"),
            ("group A any W1 W1\nquorum A", "one group"),
            ("group A any W1\ngroup B any W1\nquorum A", "one group"),
            ("group W1 any W2\nquorum W1", "taken"),
            ("group none any W2\nquorum W1", "taken"),
            ("witness W9 a+b+c\nquorum W1", "verifier key"),
            ("quorum\u{7}", "control"),
            ("logs a\nquorum W1", "`logs`"),
        ] {
            let error = policy(end).unwrap_err();
            assert!(error.to_string().contains(problem), "{end:?}: {error}");
        }
        let log = SignerKey::from_seed("log.example", Algorithm::Note, &[9; 32]).unwrap();
        let error = policy(&format!("witness L {}\nquorum L", log.verifier())).unwrap_err();
        assert_eq!((error.line, error.problem.contains("a log's")), (6, true));
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in "((log|witness|group|quorum|any|all|W1| |\n|\\PC){0,30})") {
            drop(Policy::parse(&text));
        }
    }
}
