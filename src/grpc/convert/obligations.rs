//! Obligations of an ALLOW.

use crate::{
    entry::{duration, timestamp},
    obligations::{Condition, Due},
    proto::{self, obligation::Kind},
};

/// An obligation as a message, with its state at the moment of the decision.
#[must_use]
pub fn due_message(due: &Due) -> proto::Obligation {
    proto::Obligation {
        kind: Some(kind(&due.condition)),
        not_before: due.not_before.map(timestamp),
        indeterminate: due.indeterminate,
    }
}

fn kind(condition: &Condition) -> Kind {
    match condition {
        Condition::FrequencyLimit(cap) => Kind::FrequencyLimit(proto::FrequencyLimit {
            uses_max: cap.uses_max,
            period: Some(duration(cap.period_ms)),
        }),
        Condition::QuietHours { span, time_zone } => Kind::QuietHours(proto::QuietHours {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: time_zone.clone(),
        }),
        Condition::PreferredLanguage(language) => {
            Kind::PreferredLanguage(proto::PreferredLanguage { language: language.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FrequencyCap, Millis, QuietSpan};

    #[test]
    fn what_is_due_goes_out_whole() {
        let message = due_message(&Due {
            condition: Condition::FrequencyLimit(FrequencyCap { uses_max: 3, period_ms: 1_500 }),
            not_before: Some(Millis(2_250)),
            indeterminate: false,
        });
        let period = Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 });
        let limit = proto::FrequencyLimit { uses_max: 3, period };
        assert_eq!(message.kind, Some(Kind::FrequencyLimit(limit)));
        let moment = prost_types::Timestamp { seconds: 2, nanos: 250_000_000 };
        assert_eq!((message.not_before, message.indeterminate), (Some(moment), false));

        let message = due_message(&Due {
            condition: Condition::QuietHours {
                span: QuietSpan { start_minute: 1260, end_minute: 540 },
                time_zone: "Europe/Vienna".to_owned(),
            },
            not_before: None,
            indeterminate: true,
        });
        let hours = proto::QuietHours {
            start_minute: 1260,
            end_minute: 540,
            time_zone: "Europe/Vienna".to_owned(),
        };
        assert_eq!(message.kind, Some(Kind::QuietHours(hours)));
        assert_eq!((message.not_before, message.indeterminate), (None, true));

        let message = due_message(&Due {
            condition: Condition::PreferredLanguage("de-AT".into()),
            not_before: None,
            indeterminate: false,
        });
        let language = proto::PreferredLanguage { language: "de-AT".to_owned() };
        assert_eq!(message.kind, Some(Kind::PreferredLanguage(language)));
    }
}
