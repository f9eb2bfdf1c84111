//! The programs. What each prints is short, for it goes through a console, and depends on all of its input.

use std::io::Write;

use super::{Case, Noise};

/// All cases.
#[must_use]
pub fn cases() -> &'static [Case] {
    &CASES
}

const CASES: [Case; 15] = [
    Case {
        name: "busybox",
        packages: &["busybox-static"],
        program: "/usr/bin/busybox",
        arguments: &["sha256sum", "/srv/busybox/input.bin", "/srv/busybox/small.bin"],
        inputs: |noise| {
            vec![("/srv/busybox/input.bin", noise.bytes(300_001)), ("/srv/busybox/small.bin", noise.bytes(5))]
        },
    },
    Case {
        name: "busybox-awk",
        packages: &["busybox-static"],
        program: "/usr/bin/busybox",
        arguments: &["awk", "-f", "/srv/busybox-awk/sums.awk", "/srv/busybox-awk/lines"],
        inputs: |noise| {
            let lines = noise.lines(3000, |noise| format!("{} {}", noise.word(), noise.below(1000)));
            vec![("/srv/busybox-awk/sums.awk", AWK.into()), ("/srv/busybox-awk/lines", lines)]
        },
    },
    Case {
        name: "python3",
        packages: &["python3-minimal", "libpython3-stdlib"],
        program: "/usr/bin/python3",
        arguments: &["/srv/python3/app.py", "/srv/python3/input.bin"],
        inputs: |noise| {
            vec![("/srv/python3/app.py", PYTHON.into()), ("/srv/python3/input.bin", noise.bytes(200_000))]
        },
    },
    Case {
        name: "perl",
        packages: &["perl-base"],
        program: "/usr/bin/perl",
        arguments: &["/srv/perl/app.pl", "/srv/perl/input.bin"],
        inputs: |noise| {
            vec![("/srv/perl/app.pl", PERL.into()), ("/srv/perl/input.bin", noise.bytes(100_000))]
        },
    },
    Case {
        name: "lua",
        packages: &["lua5.4"],
        program: "/usr/bin/lua5.4",
        arguments: &["/srv/lua/app.lua", "/srv/lua/input.bin"],
        inputs: |noise| vec![("/srv/lua/app.lua", LUA.into()), ("/srv/lua/input.bin", noise.bytes(100_000))],
    },
    Case {
        name: "sqlite3",
        packages: &["sqlite3"],
        program: "/usr/bin/sqlite3",
        arguments: &["-batch", "-init", "/srv/sqlite3/script.sql", ":memory:", ".exit"],
        inputs: |noise| {
            let row =
                |noise: &mut Noise| format!("INSERT INTO t VALUES('{}',{});", noise.word(), noise.below(500));
            let mut script = b"CREATE TABLE t(name TEXT, value INTEGER);\nBEGIN;\n".to_vec();
            script.extend(noise.lines(1500, row));
            script.extend_from_slice(SQL.as_bytes());
            vec![("/srv/sqlite3/script.sql", script)]
        },
    },
    Case {
        name: "jq",
        packages: &["jq"],
        program: "/usr/bin/jq",
        arguments: &["-S", "-f", "/srv/jq/filter.jq", "/srv/jq/input.json"],
        inputs: |noise| {
            let item = |noise: &mut Noise| {
                format!(
                    "{{\"k\":\"{}\",\"v\":{},\"l\":[{},{}]}}",
                    noise.word(),
                    noise.below(99),
                    noise.below(7),
                    noise.below(7)
                )
            };
            vec![("/srv/jq/filter.jq", JQ.into()), ("/srv/jq/input.json", noise.lines(800, item))]
        },
    },
    Case {
        name: "gawk",
        packages: &["gawk"],
        program: "/usr/bin/gawk",
        arguments: &["-f", "/srv/gawk/sums.awk", "/srv/gawk/lines"],
        inputs: |noise| {
            let lines = noise.lines(5000, |noise| format!("{} {}", noise.word(), noise.below(100_000)));
            vec![("/srv/gawk/sums.awk", AWK.into()), ("/srv/gawk/lines", lines)]
        },
    },
    Case {
        name: "bc",
        packages: &["bc"],
        program: "/usr/bin/bc",
        arguments: &["-l", "/srv/bc/sums.bc"],
        inputs: |noise| {
            let mut sums = noise.lines(20, |noise| {
                let (a, b) = (noise.number(), noise.number());
                format!("{a}^5 * {b}\nscale=40; {a} / ({b} + 1)\nl({b} + 1)")
            });
            sums.extend_from_slice(b"quit\n");
            vec![("/srv/bc/sums.bc", sums)]
        },
    },
    Case {
        name: "sort",
        packages: &["coreutils"],
        program: "/usr/bin/sort",
        arguments: &["-k2,2n", "-k1,1r", "-u", "/srv/sort/lines"],
        inputs: |noise| {
            vec![(
                "/srv/sort/lines",
                noise.lines(400, |noise| format!("{} {}", noise.word(), noise.below(50))),
            )]
        },
    },
    Case {
        name: "base64",
        packages: &["coreutils"],
        program: "/usr/bin/base64",
        arguments: &["/srv/base64/input.bin"],
        inputs: |noise| vec![("/srv/base64/input.bin", noise.bytes(4000))],
    },
    Case {
        name: "openssl",
        packages: &["openssl"],
        program: "/usr/bin/openssl",
        arguments: &["dgst", "-sha3-512", "/srv/openssl/input.bin"],
        inputs: |noise| vec![("/srv/openssl/input.bin", noise.bytes(500_000))],
    },
    Case {
        name: "grep",
        packages: &["grep"],
        program: "/usr/bin/grep",
        arguments: &["-n", "-E", "-f", "/srv/grep/patterns", "/srv/grep/lines"],
        inputs: |noise| {
            let lines = noise.lines(5000, |noise| format!("{} {}", noise.word(), noise.word()));
            vec![
                ("/srv/grep/patterns", b"^([a-m])[a-z]*\\1 .*q\nz.z$\n".to_vec()),
                ("/srv/grep/lines", lines),
            ]
        },
    },
    Case {
        name: "sed",
        packages: &["sed"],
        program: "/usr/bin/sed",
        arguments: &["-n", "-E", "-f", "/srv/sed/script", "/srv/sed/lines"],
        inputs: |noise| {
            let lines = noise.lines(2000, |noise| format!("{} {}", noise.word(), noise.word()));
            vec![("/srv/sed/script", SED.into()), ("/srv/sed/lines", lines)]
        },
    },
    Case {
        name: "gzip",
        packages: &["gzip"],
        program: "/usr/bin/gzip",
        arguments: &["-dc", "/srv/gzip/input.gz"],
        inputs: |noise| {
            let text = noise.lines(300, |noise| format!("{} {}", noise.word(), noise.word()));
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            // Writing to memory does not fail; if it did, gzip would say so on the host.
            let _ = packed.write_all(&text);
            vec![("/srv/gzip/input.gz", packed.finish().unwrap_or_default())]
        },
    },
];

/// Sums by first letter, in the letters' order; for any awk.
const AWK: &str = r#"{ sum[substr($1, 1, 1)] += $2; length_of[length($1)]++ }
END {
  letters = "abcdefghijklmnopqrstuvwxyz"
  for (i = 1; i <= 26; i++) { c = substr(letters, i, 1); if (c in sum) printf "%s %d %.3f\n", c, sum[c], sum[c] / NR }
  for (i = 1; i <= 9; i++) print i, length_of[i]
}
"#;

const PYTHON: &str = r#"import collections, hashlib, json, struct, sys, zlib
data = open(sys.argv[1], "rb").read()
words = struct.unpack("<%dI" % (len(data) // 4), data)
print(json.dumps({
    "sha256": hashlib.sha256(data).hexdigest(),
    "blake2": hashlib.blake2b(data, digest_size=16).hexdigest(),
    "crc32": zlib.crc32(data),
    "adler32": zlib.adler32(zlib.decompress(zlib.compress(data))),
    "sum": sum(words), "largest": sorted(words)[-3:],
    "common": sorted(collections.Counter(data).most_common(4), key=lambda p: (-p[1], p[0]))[:3],
    "product": str(words[0] ** 40 % (words[1] | 1)),
}, indent=1, sort_keys=True))
"#;

const PERL: &str = r#"use strict; use warnings;
open(my $in, '<:raw', $ARGV[0]) or die "cannot open: $!";
my $data = do { local $/; <$in> };
printf "%d bytes, sum %u\n", length($data), unpack('%32C*', $data);
my %count; $count{$_}++ for unpack('C*', $data);
printf "%3d %d\n", $_, $count{$_} for (sort { $count{$b} <=> $count{$a} || $a <=> $b } keys %count)[0..9];
my @runs = $data =~ /[a-z]{3,}/g;
print join(' ', sort @runs), "\n";
print scalar(reverse(unpack('H*', substr($data, 0, 40)))), "\n";
"#;

const LUA: &str = r#"local f = assert(io.open(arg[1], "rb"))
local data = f:read("a")
f:close()
local a, b = 1, 0
for i = 1, #data do a = (a + data:byte(i)) % 65521; b = (b + a) % 65521 end
print(#data, string.format("%08x", b << 16 | a))
local words = {}
for i = 1, #data - 7, 1000 do words[#words + 1] = string.unpack("<I8", data, i) & 0xffffffffff end
table.sort(words)
print(table.concat(words, " "))
print(select(2, data:gsub("%a%d", "")), (data:sub(1, 16):gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
"#;

const SQL: &str = "COMMIT;
CREATE INDEX i ON t(name);
SELECT count(*), sum(value), avg(value), min(name), max(name) FROM t;
SELECT substr(name, 1, 1) AS letter, count(*), total(value) FROM t GROUP BY letter ORDER BY 2 DESC, 1 LIMIT 12;
SELECT a.name, a.value, b.value FROM t a JOIN t b ON a.name = b.name AND a.value < b.value ORDER BY 1, 2, 3 LIMIT 20;
WITH RECURSIVE r(n, x) AS (SELECT 1, 7 UNION ALL SELECT n + 1, (x * 31 + n) % 1009 FROM r WHERE n < 2000)
  SELECT sum(x), max(x) FROM r;
SELECT hex(sha3(group_concat(name || value), 256)) FROM (SELECT * FROM t ORDER BY name, value);
";

const JQ: &str = "[inputs] | {
  sums: (group_by(.k[0:1]) | map({key: .[0].k[0:1], value: (map(.v) | add)}) | from_entries),
  longest: (map(.k) | sort_by(length, .) | .[-3:]),
  lists: ([.[].l | add] | {min: min, max: max, mean: (add / length)}),
  text: (map(select(.v > 90).k) | unique | join(\"-\") | test(\"a.*z\"))
}
";

const SED: &str = r"/^([a-z])[a-z]*\1 /{
s/^([a-z]+) ([a-z]+)$/\2 <\1>/
y/aeiou/AEIOU/
=
p
}
$s/.*/last: &/p
";
