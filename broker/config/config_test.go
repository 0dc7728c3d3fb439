package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

func TestPageIsCurrent(t *testing.T) {
	const page = "../../docs/configuration.md"
	want := Markdown()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md is not current: go test ./broker/config -run Page -update")
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "firn.yaml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaults(t *testing.T) {
	l, err := Load(Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	s := l.Settings
	abs, _ := filepath.Abs("firn-data/objects")
	if s.Data != "./firn-data" || s.Kafka != "127.0.0.1:9092" || s.HTTP != "127.0.0.1:9644" || s.Store != "file://"+abs || len(s.Set) != 0 {
		t.Errorf("defaults are %+v", s)
	}
	for _, v := range l.Values {
		if v.Origin != FromDefault {
			t.Errorf("%s comes from %s", v.Setting.Name, v.Where)
		}
	}
}

// TestPrecedence gives every setting in every combination of places and wants
// the strongest one.
func TestPrecedence(t *testing.T) {
	valid := map[string][3]string{ // flag, env, file
		"data": {"a", "b", "c"}, "kafka": {"h:1", "h:2", "h:3"}, "advertise": {"h:1", "h:2", "h:3"},
		"http": {"i:1", "i:2", "i:3"}, "store": {"file:///a", "file:///b", "file:///c"}, "node-id": {"1", "2", "3"},
		"rack": {"a", "b", "c"}, "deployment": {"a.b", "b", "c"}, "cache-bytes": {"1GiB", "3GiB", "4GiB"}, "cache-memory": {"64MiB", "96MiB", "1GiB"},
		"upload-check": {"1s", "2s", "3s"}, "upload-wait": {"0s", "2s", "3s"},
		"log-level": {"debug", "warn", "error"}, "log-format": {"json", "text", "json"},
		"seeds": {"h:1", "h:1,h:2,h:3", "h:2"}, "peer": {"h:1", "h:2", "h:3"}, "peer-client": {"h:1", "h:2", "h:3"},
	}
	needs := map[string][]string{ // what a setting is refused without
		"seeds": {"FIRN_STORE=file:///s"}, "peer": {"FIRN_STORE=file:///s", "FIRN_SEEDS=h:1"},
		"peer-client": {"FIRN_STORE=file:///s", "FIRN_SEEDS=h:1", "FIRN_PEER=h:9"},
	}
	for i := range table {
		s := &table[i]
		if s.IsSet() {
			continue // TestSetPrecedence
		}
		v, ok := valid[s.Name]
		if !ok {
			t.Errorf("no test values for %s", s.Name)
			continue
		}
		for mask := range 8 {
			in := Inputs{Flags: map[string]string{}, Environ: needs[s.Name]}
			want, origin := s.Default, FromDefault
			if mask&4 != 0 {
				in.File = file(t, "# comment\n"+s.Name+": "+v[2]+"\n")
				want, origin = v[2], FromFile
			}
			if mask&2 != 0 {
				in.Environ = append([]string{"PATH=/bin", s.Env() + "=" + v[1]}, needs[s.Name]...)
				want, origin = v[1], FromEnv
			}
			if mask&1 != 0 {
				in.Flags[s.Name] = v[0]
				want, origin = v[0], FromFlag
			}
			l, err := Load(in)
			if err != nil {
				t.Fatalf("%s, places %03b: %v", s.Name, mask, err)
			}
			got := l.value(s.Name)
			if s.Name == "store" && origin == FromDefault {
				want = got.Text
			}
			if got.Text != want || got.Origin != origin {
				t.Errorf("%s, places %03b: %q from %s (%s), want %q from %s", s.Name, mask, got.Text, got.Origin, got.Where, want, origin)
			}
		}
	}
}

// TestSetPrecedence: each broker config comes from the strongest place that
// has it, whatever the others say of other names.
func TestSetPrecedence(t *testing.T) {
	l, err := Load(Inputs{
		Set:     []string{"num.partitions=3", "log.retention.hours=-1"},
		Environ: []string{`FIRN_SET=num.partitions=4, "max.connections.per.ip.overrides=10.0.0.1:2,10.0.0.2:3",group.max.size=9`},
		File:    file(t, "set:\n  num.partitions: 5\n  group.max.size: 8\n  firn.max.topics: 7\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]string{
		"num.partitions": {"3", "--set"}, "log.retention.hours": {"-1", "--set"},
		"max.connections.per.ip.overrides": {"10.0.0.1:2,10.0.0.2:3", "FIRN_SET"}, "group.max.size": {"9", "FIRN_SET"},
		"firn.max.topics": {"7", l.File + ":4"},
	}
	if len(l.Set) != len(want) || len(l.Settings.Set) != len(want) {
		t.Errorf("got %+v and %v", l.Set, l.Settings.Set)
	}
	for _, v := range l.Set {
		if w := want[v.Name]; v.Text != w[0] || v.Where != w[1] || l.Settings.Set[v.Name] != w[0] {
			t.Errorf("%s is %q from %s, want %q from %s", v.Name, v.Text, v.Where, w[0], w[1])
		}
	}
	if _, err := Load(Inputs{Set: []string{"num.partitions=3", "num.partitions=3"}}); err == nil || !strings.Contains(err.Error(), "--set: num.partitions: is set twice") {
		t.Errorf("given twice: %v", err)
	}
}

func TestValuesReachSettings(t *testing.T) {
	l, err := Load(Inputs{
		Flags:   map[string]string{"cache-bytes": "3 GB", "cache-memory": "64MiB", "node-id": "0", "seeds": "a:1, b:2,c:3", "peer": "b:2", "store": "file:///s"},
		Environ: []string{"FIRN_UPLOAD_WAIT=0s", "FIRN_UPLOAD_CHECK=", "FIRN_ADVERTISE=[::1]:99"},
		File:    file(t, "rack: \"eu-1a\"\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := l.Settings
	if s.CacheBytes != 3e9 || s.CacheMemory != 64<<20 || s.NodeID != 0 || s.UploadWait != 0 || s.Rack != "eu-1a" || s.Advertise != "[::1]:99" || s.UploadCheck != 5*time.Second {
		t.Errorf("got %+v", s)
	}
	if !slices.Equal(s.Seeds, []string{"a:1", "b:2", "c:3"}) || s.Peer != "b:2" || s.PeerClient != "" {
		t.Errorf("seeds %q, peer %q, %q", s.Seeds, s.Peer, s.PeerClient)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		env        []string
		flags      map[string]string
		want       []string // each must be in the error; FILE is the file's path
	}{
		{"unknown key", "data: x\n\ncache-byte: 3\n", nil, nil, []string{"FILE:3: cache-byte: unknown key; did you mean cache-bytes?"}},
		{"other separators", "cache_bytes: 3\n", nil, nil, []string{"FILE:1: cache_bytes: unknown key; did you mean cache-bytes?"}},
		{"Kafka's name", "log.dirs: /x\n", nil, nil, []string{"what Kafka calls log.dirs is data here"}},
		{"broker config", "num.partitions: 3\n", nil, nil, []string{"FILE:1: num.partitions: is a broker config; put it below the key set:"}},
		{"nothing near", "zookeeper: 3\n", nil, nil, []string{"FILE:1: zookeeper: unknown key; the keys are data, kafka"}},
		{"unknown variable", "", []string{"FIRN_KAFKAA=x"}, nil, []string{"FIRN_KAFKAA: there is no such variable; did you mean FIRN_KAFKA?"}},
		{"bad value in file", "kafka: nonsense\n", nil, nil, []string{`FILE:1: kafka: "nonsense" is not HOST:PORT`}},
		{"bad value in variable", "", []string{"FIRN_KAFKA=h:99999"}, nil, []string{`FIRN_KAFKA: "h:99999": the port "99999" is not a number from 0 to 65535`}},
		{"bad value in flag", "", nil, map[string]string{"node-id": "-1"}, []string{"--node-id: -1 is not between 0 and 2147483647"}},
		{"huge number", "node-id: 99999999999999999999\n", nil, nil, []string{"99999999999999999999 is not between 0"}},
		{"fraction", "node-id: 1.5\n", nil, nil, []string{`"1.5" is not a whole number`}},
		{"bare number as duration", "upload-check: 5\n", nil, nil, []string{`"5" is not a duration such as`}},
		{"size", "cache-bytes: lots\n", nil, nil, []string{`"lots" is not a size such as`}},
		{"size out of range", "cache-bytes: 1KiB\n", nil, nil, []string{"1KiB is not between 16MiB and"}},
		{"size overflows", "cache-bytes: 9999999999TiB\n", nil, nil, []string{`"9999999999TiB" is not a size`}},
		{"word", "log-level: inof\n", nil, nil, []string{`"inof" is not one of debug, info, warn, error; did you mean info?`}},
		{"list", "kafka:\n  - a:1\n", nil, nil, []string{"FILE:1: kafka: its value must be plain text"}},
		{"twice", "rack: a\nrack: b\n", nil, nil, []string{"FILE:2: rack: is set twice, first in line 1"}},
		{"no value", "rack:\n", nil, nil, []string{"FILE:1: rack: has no value"}},
		{"not a mapping", "- a\n- b\n", nil, nil, []string{"FILE:1: is not a list of settings"}},
		{"not YAML", "data: x\nkafka: [\n", nil, nil, []string{"FILE:", "is not YAML"}},
		{"two documents", "rack: a\n---\nrack: b\n", nil, nil, []string{"FILE:2: holds a second document"}},
		{"file in file", "config: x\n", nil, nil, []string{"a file cannot name another file"}},
		{"wildcard needs advertise", "kafka: 0.0.0.0:9092\n", nil, nil, []string{"FILE:1: kafka:", "set advertise"}},
		{"wildcard advertised", "advertise: '[::]:9092'\n", nil, nil, []string{"FILE:1: advertise:", "no address that a client could connect to"}},
		{"two seeds", "seeds: a:1,b:1\nstore: file:///s\n", nil, nil, []string{"FILE:1: seeds: 2 addresses: a cluster has 1, 3 or 5 members"}},
		{"seed twice", "seeds: a:1,b:1,a:1\nstore: file:///s\n", nil, nil, []string{"seeds: a:1 is there twice"}},
		{"wildcard seed", "seeds: 0.0.0.0:2380\nstore: file:///s\n", nil, nil, []string{"seeds:", "no address that a client could connect to"}},
		{"empty seed", "seeds: 'a:1,,b:1'\nstore: file:///s\n", nil, nil, []string{"has an empty place"}},
		{"cluster with a local store", "seeds: a:1\n", nil, nil, []string{"store: the brokers of a cluster share one object store"}},
		{"peer alone", "peer: a:1\n", nil, nil, []string{"FILE:1: peer:", "name all of them with seeds"}},
		{"peer-client alone", "seeds: a:1\nstore: file:///s\npeer-client: a:1\n", nil, nil, []string{"FILE:3: peer-client:", "set peer"}},
		{"port 0 advertised", "advertise: h:0\n", nil, nil, []string{"FILE:1: advertise:", "port 0"}},
		{"same port", "kafka: h:1\nhttp: h:1\n", nil, nil, []string{"FILE:2: http:", "already taken by kafka"}},
		{"set of nothing", "set: 3\n", nil, nil, []string{"FILE:1: set: must be a mapping"}},
		{"set is a list", "set:\n- num.partitions=3\n", nil, nil, []string{"FILE:2: set: must be a mapping"}},
		{"bad value in set", "set:\n  num.partitions: many\n", nil, nil, []string{`FILE:2: num.partitions: "many" is not a number of type int`}},
		{"twice in set", "set:\n  num.partitions: 1\n  num.partitions: 2\n", nil, nil, []string{"FILE:3: num.partitions: is set twice, first in line 2"}},
		{"list in set", "set:\n  num.partitions: [1]\n", nil, nil, []string{"FILE:2: num.partitions: its value must be plain text"}},
		{"misspelt in set", "set:\n  num.partitons: 1\n", nil, nil, []string{"FILE:2: num.partitons: no such broker config; did you mean num.partitions?"}},
		{"not in Firn", "", []string{"FIRN_SET=num.io.threads=8"}, nil, []string{"FIRN_SET: num.io.threads: Kafka has this broker config, this broker does not"}},
		{"not a pair", "", []string{"FIRN_SET=num.partitions"}, nil, []string{`FIRN_SET: num.partitions: "num.partitions" is not NAME=VALUE`}},
		{"two lines", "", []string{"FIRN_SET=num.partitions=1\nnum.partitions=2"}, nil, []string{"FIRN_SET: has more than one line"}},
		{"open quote", "", []string{"FIRN_SET=\"a=b"}, nil, []string{"FIRN_SET: is not a list such as"}},
		{"inflight below request", "set:\n  socket.request.max.bytes: 1073741824\n", nil, nil, []string{"queued.max.request.bytes: 536870912 is less than socket.request.max.bytes (1073741824)"}},
		{"empty data", "data: ''\n", nil, nil, []string{"FILE:1: data: is empty"}},
		{"several at once", "dta: x\nkafka: y\n", []string{"FIRN_RAK=z"}, map[string]string{"http": "q"},
			[]string{"FILE:1: dta", "FILE:2: kafka", "FIRN_RAK", "--http"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Inputs{Environ: c.env, Flags: c.flags}
			if c.yaml != "" {
				in.File = file(t, c.yaml)
			}
			_, err := Load(in)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if w = strings.ReplaceAll(w, "FILE", in.File); !strings.Contains(err.Error(), w) {
					t.Errorf("error\n%v\nlacks\n%s", err, w)
				}
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Inputs{Environ: []string{"FIRN_CONFIG=nowhere.yaml"}})
	if err == nil || !strings.Contains(err.Error(), "nowhere.yaml: there is no such file (looked for /") {
		t.Errorf("error is %v", err)
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "{}\n"} {
		if _, err := Load(Inputs{File: file(t, text)}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestServiceLinks: what Kubernetes sets for a service named firn, or firn-x,
// must not stop the broker; a misspelt variable of ours must.
func TestServiceLinks(t *testing.T) {
	ok := []string{"FIRN_SERVICE_HOST=10.0.0.1", "FIRN_SERVICE_PORT=9092", "FIRN_SERVICE_PORT_KAFKA=9092", "FIRN_PORT=tcp://10.0.0.1:9092",
		"FIRN_PORT_9092_TCP=tcp://10.0.0.1:9092", "FIRN_PORT_9092_TCP_ADDR=10.0.0.1", "FIRN_HEADLESS_SERVICE_HOST=10.0.0.2", "FIRN_BROKERS=h:1"}
	if _, err := Load(Inputs{Environ: ok}); err != nil {
		t.Error(err)
	}
	if _, err := Load(Inputs{Environ: []string{"FIRN_PROT=1"}}); err == nil {
		t.Error("FIRN_PROT was let pass")
	}
}

func TestCheckStore(t *testing.T) {
	const secret = "hunter2"
	_, err := Load(Inputs{
		Flags:      map[string]string{"store": "s3://user:" + secret + "@b/p?secret_access_key=" + secret},
		CheckStore: func(u string) error { return errors.New("cannot parse " + u) },
	})
	if err == nil || !strings.Contains(err.Error(), "--store") || strings.Contains(err.Error(), secret) {
		t.Errorf("error is %v", err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"s3://b/p?region=eu":                       "s3://b/p?region=eu",
		"minio://u:pw@h:9000/b":                    "minio://u:xxxxx@h:9000/b",
		"s3://b?region=eu&session-token=abc":       "s3://b?region=eu&session-token=xxxxx",
		"s3://b?accessKey=AKIA&SECRET_KEY=abc":     "s3://b?SECRET_KEY=xxxxx&accessKey=xxxxx",
		"s3://u:p%zz@b":                            "s3:…",
		"file:///var/lib/firn":                     "file:///var/lib/firn",
		"gs://bucket/prefix?credentials=%2Fa.json": "gs://bucket/prefix?credentials=xxxxx",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSizesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n")
		got, err := ParseSize(FormatSize(n))
		if err != nil || got != n {
			t.Fatalf("%d is written %s and read %d, %v", n, FormatSize(n), got, err)
		}
	})
}

// FuzzFile: no file makes the reader panic, and each error names its place.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"data: x\n", "a: &x 1\nrack: *x\n", "? [a]\n: b\n", "set:\n  num.partitions: 1\n  ? [x]\n  : y\n", "set: &a {x: *a}\n", "rack: !!binary aGk=\n", "<<: {rack: a}\n", "\x00", "- &a [*a]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, errs := parseFile("f", data)
		for _, err := range errs {
			var e *Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Where, "f:") || e.Reason == "" {
				t.Errorf("error %v does not say where", err)
			}
		}
	})
}
