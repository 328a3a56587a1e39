//! Requests for disclosures.

use age::x25519;

use super::{
    Invalid, Problem,
    scalar::{at_most, subject},
};
use crate::{
    domain::Catalog,
    node::{DISCLOSED_SUBJECTS_MAX, Disclosed, Disclosing, RECIPIENTS_MAX},
    proto,
};

/// The disclosure that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn disclosing(
    catalog: &Catalog,
    request: &proto::DiscloseRequest,
) -> Result<Disclosing, Invalid> {
    at_most(request.recipients.len(), RECIPIENTS_MAX, "recipients")?;
    if request.recipients.is_empty() {
        return Err(Problem::Required.at("recipients"));
    }
    let mut recipients: Vec<x25519::Recipient> = Vec::with_capacity(request.recipients.len());
    for (position, text) in request.recipients.iter().enumerate() {
        let at = |problem: Problem| problem.at(format!("recipients[{position}]"));
        let recipient = text.parse().map_err(|_| at(Problem::AgeRecipient))?;
        if recipients.contains(&recipient) {
            return Err(at(Problem::GivenTwice));
        }
        recipients.push(recipient);
    }
    Ok(Disclosing {
        whose: whose(catalog, request)?,
        recipients,
        with_identities: request.with_identities,
        open_ended: request.open_ended,
    })
}

fn whose(catalog: &Catalog, request: &proto::DiscloseRequest) -> Result<Disclosed, Invalid> {
    match (request.subjects.as_slice(), request.all) {
        ([], false) => Err(Problem::Required.at("subjects")),
        ([], true) => Ok(Disclosed::All),
        (_, true) => Err(Problem::NotWith("all").at("subjects")),
        (texts, false) => {
            at_most(texts.len(), DISCLOSED_SUBJECTS_MAX, "subjects")?;
            let parse = |(position, text): (usize, &String)| {
                subject(catalog, text, "subject")
                    .map_err(|Invalid { problem, .. }| problem.at(format!("subjects[{position}]")))
            };
            let subjects = texts.iter().enumerate().map(parse);
            subjects.collect::<Result<_, _>>().map(Disclosed::Named)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    fn refused(change: impl FnOnce(&mut proto::DiscloseRequest)) -> String {
        let mut request = proto::DiscloseRequest {
            all: true,
            recipients: vec![RECIPIENT.to_owned()],
            ..Default::default()
        };
        let catalog = Catalog::default();
        assert!(disclosing(&catalog, &request).is_ok());
        change(&mut request);
        disclosing(&catalog, &request).unwrap_err().to_string()
    }

    #[test]
    fn a_request_that_is_wrong_names_the_field_and_the_limit() {
        assert_eq!(refused(|it| it.recipients.clear()), "recipients is required");
        let many = refused(|it| it.recipients = vec![RECIPIENT.to_owned(); 21]);
        assert_eq!(many, "recipients must have at most 20 items, got 21");
        let twice = refused(|it| it.recipients.push(RECIPIENT.to_owned()));
        assert_eq!(twice, "recipients[1] is given twice");
        for wrong in ["", "age1", "ssh-ed25519 AAAA", &RECIPIENT.replace("8p", "9p")] {
            let text = refused(|it| it.recipients[0] = wrong.to_owned());
            assert!(text.starts_with("recipients[0] must be an X25519 recipient"), "{text}");
        }
        assert_eq!(refused(|it| it.all = false), "subjects is required");
        let both = refused(|it| it.subjects.push("user:1".to_owned()));
        assert!(both.starts_with("subjects ") && both.contains("all"), "{both}");
        let many = refused(|it| {
            it.all = false;
            it.subjects = vec!["user:1".to_owned(); 10_001];
        });
        assert_eq!(many, "subjects must have at most 10000 items, got 10001");
        let malformed = refused(|it| {
            it.all = false;
            it.subjects = vec!["nobody".to_owned()];
        });
        assert!(malformed.starts_with("subjects[0] "), "{malformed}");
    }
}
