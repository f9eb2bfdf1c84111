use std::fmt::Write;

use proptest::prelude::*;

use crate::date::HttpDate;
use crate::html::{self, Document};
use crate::json;
use crate::prometheus::{Exposition, Kind, Value};
use crate::stats::HttpStats;

#[test]
fn dates_have_the_form_that_http_wants() {
    let cases = [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ];
    for (seconds, text) in cases {
        assert_eq!(HttpDate(seconds).to_string(), text);
    }
}

#[test]
fn every_day_of_two_thousand_years_follows_the_one_before() {
    let months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (mut year, mut month, mut day) = (1970, 0, 1);
    for days in 0..730_000u64 {
        let text = HttpDate(days * 86_400).to_string();
        assert_eq!(&text[5..16], format!("{day:02} {} {year:04}", names[month]));
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        day += 1;
        if day > months[month] + u32::from(leap && month == 1) {
            (day, month) = (1, month + 1);
        }
        if month == 12 {
            (month, year) = (0, year + 1);
        }
    }
}

#[test]
fn metrics_are_written_as_prometheus_reads_them() {
    let mut text = String::new();
    let mut out = Exposition::new(&mut text);
    out.gauge("m1_up", "Whether\nit \\ is \"up\".", true).unwrap();
    let mut family = out.family("m1_faults_total", "Faults.", Kind::Counter).unwrap();
    family.sample(&[("name", &"a\"b\\c\nd"), ("domid", &7)], 3u64).unwrap();
    family.sample(&[("name", &"é"), ("domid", &8)], u64::MAX).unwrap();
    let mut family = out.family("m1_service_seconds", "Service time.", Kind::Histogram).unwrap();
    family
        .histogram(&[("kind", &"map")], &[1_000, 2_500_000, 1_000_000_000], &[1, 0, 4, 2], 12_345_678_901)
        .unwrap();
    family.histogram(&[], &[1], &[0, 0], 0).unwrap();
    let mut family = out.family("m1_values", "Values.", Kind::Gauge).unwrap();
    for value in
        [Value::from(-3i64), 1.5.into(), f64::NAN.into(), f64::INFINITY.into(), f64::NEG_INFINITY.into()]
    {
        family.sample(&[], value).unwrap();
    }
    let expected = r#"# HELP m1_up Whether\nit \\ is "up".
# TYPE m1_up gauge
m1_up 1
# HELP m1_faults_total Faults.
# TYPE m1_faults_total counter
m1_faults_total{name="a\"b\\c\nd",domid="7"} 3
m1_faults_total{name="é",domid="8"} 18446744073709551615
# HELP m1_service_seconds Service time.
# TYPE m1_service_seconds histogram
m1_service_seconds_bucket{kind="map",le="0.000001"} 1
m1_service_seconds_bucket{kind="map",le="0.0025"} 1
m1_service_seconds_bucket{kind="map",le="1"} 5
m1_service_seconds_bucket{kind="map",le="+Inf"} 7
m1_service_seconds_sum{kind="map"} 12.345678901
m1_service_seconds_count{kind="map"} 7
m1_service_seconds_bucket{le="0.000000001"} 0
m1_service_seconds_bucket{le="+Inf"} 0
m1_service_seconds_sum 0
m1_service_seconds_count 0
# HELP m1_values Values.
# TYPE m1_values gauge
m1_values -3
m1_values 1.5
m1_values NaN
m1_values +Inf
m1_values -Inf
"#;
    assert_eq!(text, expected);
}

#[test]
#[should_panic(expected = "appears twice")]
fn a_family_that_comes_twice_is_found() {
    let mut text = String::new();
    let mut out = Exposition::new(&mut text);
    out.gauge("m1_up", "Up.", 1u64).unwrap();
    out.gauge("m1_up", "Up.", 1u64).unwrap();
}

#[test]
#[should_panic(expected = "metric name")]
fn a_name_that_cannot_be_is_found() {
    Exposition::new(&mut String::new()).gauge("m1-up", "Up.", 1u64).unwrap();
}

#[test]
#[should_panic(expected = "_total")]
fn a_counter_without_total_is_found() {
    Exposition::new(&mut String::new()).counter("m1_faults", "Faults.", 1u64).unwrap();
}

#[test]
fn the_services_own_metrics_are_complete() {
    let mut text = String::new();
    HttpStats::default().write_metrics(&mut Exposition::new(&mut text)).unwrap();
    assert_eq!(text.matches("m1_http_responses_total{code=").count(), 13);
    assert_eq!(text.matches("m1_http_timeouts_total{kind=").count(), 5);
    assert!(text.contains("\nm1_http_refused_total 0\n") && text.ends_with('\n'));
}

#[test]
fn json_nests() {
    let mut text = String::new();
    json::object(&mut text, |out| {
        out.string("name", &"a\"b\\c\nd\u{1}é")?;
        out.number("saved", -5i64)?;
        out.boolean("ready", true)?;
        out.null("none")?;
        out.object("empty", |_| Ok(()))?;
        out.array("clients", |clients| {
            clients.object(|client| client.number("domid", 7u16))?;
            clients.array(|inner| {
                inner.number(1u64)?;
                inner.string(&"x")
            })
        })
    })
    .unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["name"], "a\"b\\c\nd\u{1}é");
    assert_eq!(value["clients"], serde_json::json!([{"domid": 7}, [1, "x"]]));
    assert_eq!(value["saved"], -5);
    assert_eq!(value["empty"], serde_json::json!({}));
}

#[test]
fn the_html_page_has_what_was_put_into_it_and_no_scripts() {
    let mut text = String::new();
    let mut page = Document::begin(&mut text, &"M1 <script>alert(1)</script>").unwrap();
    page.heading(&"Clients & volumes").unwrap();
    page.links(&[("/metrics", "metrics"), ("/status.json", "status")]).unwrap();
    page.table(&["Domain", "R"], |table| table.row(&[&"<b>", &12])).unwrap();
    page.paragraph(&"End").unwrap();
    page.end().unwrap();
    assert!(!text.contains("<script") && text.contains("M1 &lt;script&gt;"));
    assert!(text.contains("<h2>Clients &amp; volumes</h2>"));
    assert!(text.contains("<a href=\"/metrics\">metrics</a> · <a href"));
    assert!(text.contains("<tr><td>&lt;b&gt;</td><td>12</td></tr>"));
    for tag in ["html", "head", "body", "table", "tbody", "thead", "style", "h1", "title", "div"] {
        let opened = text.matches(&format!("<{tag}>")).count() + text.matches(&format!("<{tag} ")).count();
        assert_eq!((opened, text.matches(&format!("</{tag}>")).count()), (1, 1), "{tag}");
    }
}

proptest! {
    #[test]
    fn any_text_comes_back_from_json(text in any::<String>(), pieces in proptest::collection::vec(any::<String>(), 0..4)) {
        struct Pieces(Vec<String>);
        impl std::fmt::Display for Pieces {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|piece| f.write_str(piece))
            }
        }
        let mut out = String::new();
        let joined = pieces.concat();
        json::object(&mut out, |object| {
            object.string("text", &text)?;
            object.string("pieces", &Pieces(pieces))
        }).unwrap();
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(value["text"].as_str(), Some(text.as_str()));
        prop_assert_eq!(value["pieces"].as_str(), Some(joined.as_str()));
    }

    #[test]
    fn no_text_escapes_from_html(text in any::<String>()) {
        let mut out = String::new();
        write!(out, "{}", html::escaped(&text)).unwrap();
        prop_assert!(!out.contains(['<', '>', '"', '\'']));
        let back = out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
        prop_assert_eq!(back.replace("&amp;", "&"), text);
    }
}
