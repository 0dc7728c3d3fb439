package kafkadiff

import (
	"bytes"
	"encoding/binary"
	"flag"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"1 Metadata 1":                      "begins with a comment",
		"# a":                               "there is no step",
		"# a\n1 Metadata 1\n1 Metadata 1":   "step 1 is there twice",
		"# a\n1 Metadato 1":                 "there is no API",
		"# a\n1 Metadata one":               "is not a number",
		"# a\n1 Metadata 1 {\"Topics\": [}": "is not closed",
		"# a\n1 Metadata 1 {} soon":         "after the request",
		"# a\n1 Metadata 1 {} until Topics[0].ErrorCode": "want PATH = JSON",
		"# a\n1 Metadata 1\nlet x = 2 Topics":            "no step \"2\"",
		"# a\n1 Metadata 1\ndiffers 1 Topics = []":       "reason",
		"# a\n1 Metadata 1\ndiffers 2 Topics = [] : so":  "there is no step 2",
		"# a\n1 Metadata 1\nignore 1 Topics[x] : so":     "[N], [*] or [Field=JSON]",
		"# a\n1 raw 00 g":                                          "after the request",
		"# a\n1 raw 000":                                           "raw",
		"# a\nname t\n1 Metadata 1":                                "not understood",
		"# a\nbroker x\n1 Metadata 1":                              "not understood",
		"# a\nhello\n1 Metadata 1":                                 "not understood",
		"# a\n1 Metadata 1\nawait 7":                               "no step \"7\"",
		"# a\n1 Metadata 1\n2 pending 9":                           "no step \"9\"",
		"# a\nsleep long\n1 Metadata 1":                            "invalid duration",
		"# a\nclose main\n1 Metadata 1":                            "not understood",
		"# a\n1 Metadata 1\ndiffers 1 Topics = {\"a\": } : so":     "is not JSON",
		"# a\nawait-topic $t now\n1 Metadata 1":                    "not understood",
		"# a\n1 Metadata 1 {} until A = 1 until B = 2":             "follows it",
		"# a\ntopic t partitions=3\n1 Metadata 1":                  "not understood",
		"# a\n1 Metadata 1\ndiffers 1 Topics[Topic=\"$t\" = 1 : x": "not closed",
	} {
		_, err := Parse("x", text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	s, err := Parse("a/b", `# First
# and second line.
broker b=2 a=1
kafka d=4 c=3
topic $t partitions=2
name $g $h

# Not part of it.
1 @c Heartbeat 4 {"Group": "$g",
   "Generation": $(gen+1)} & within 3s
2 @c raw 00 01 02ff within 1s
3 raw @d 0a &
4 12 0 {} until ErrorCode = "NONE"
await 1
let x = 4 Topics[Topic="$t"].ErrorCode
differs 1,2 A.B[*].C = absent : because
ignore * ThrottleMillis : by nature
`)
	if err != nil {
		t.Fatal(err)
	}
	if s.About != "First and second line." || s.BrokerKey() != "a=1 b=2 kafka:c=3 kafka:d=4" || s.Fresh {
		t.Errorf("head: %q %q %v", s.About, s.BrokerKey(), s.Fresh)
	}
	var got []action
	for _, l := range s.lines {
		got = append(got, l.do)
	}
	want := []action{
		topic{"t", "partitions=2"}, declare{[]string{"g", "h"}},
		request{step: 1, conn: "c", key: 12, version: 4, fields: `{"Group": "$g", "Generation": $(gen+1)}`, async: true, within: 3 * time.Second},
		rawRequest{step: 2, conn: "c", hex: "000102ff", within: time.Second},
		rawRequest{step: 3, conn: "d", hex: "0a", async: true},
		request{step: 4, conn: "main", key: 12, fields: "{}", until: &condition{path{{field: "ErrorCode", index: -1}}, "NONE"}},
		await{1}, let{"x", 4, `Topics[Topic="$t"].ErrorCode`},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(s.differs) != 1 || s.differs[0].value != (any)(gone{}) || !s.differs[0].concerns(2) || s.differs[0].concerns(4) || !s.ignores[0].concerns(4) {
		t.Errorf("allowances: %+v %+v", s.differs, s.ignores)
	}
}

func TestPaths(t *testing.T) {
	tree, _, err := parseTree(`{"A": [{"N": "x", "V": 1}, {"N": "y", "V": 2}], "B": null}`)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"": oneLine(tree), "B": "null", "A[1].V": "2", "A[*].V": "1 2", `A[N="y"].V`: "2", `A[N="x","y"].N`: `"x" "y"`,
		"A[7].V": "", "C": "", "B.C": "", "A.N": "", `A[N="z"]`: "",
	} {
		p, err := parsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range p.lookup(tree) {
			got = append(got, oneLine(v))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	for _, bad := range []string{"A[", "A[x]", "A..B", `A[N="x"`, "A[-1]", ".A"} {
		if p, err := parsePath(bad); err == nil {
			t.Errorf("%s: got %v, want an error", bad, p)
		}
	}
}

func TestDifferences(t *testing.T) {
	for _, c := range []struct{ want, got, at string }{
		{`{"a": 1}`, `{"a": 1}`, ""},
		{`{"a": 1, "b": 2}`, `{"b": 2, "a": 1}`, ""},
		{`{"a": 1}`, `{"a": 2}`, "a"},
		{`{"a": null}`, `{"a": ""}`, "a"},
		{`{"a": []}`, `{"a": null}`, "a"},
		{`{"a": 1}`, `{}`, "a"},
		{`{}`, `{"a": 1}`, "a"},
		{`{"a": [1, 2]}`, `{"a": [1]}`, "a[1]"},
		{`{"a": [1, 2]}`, `{"a": [2, 1]}`, "a[0] a[1]"},
		{`"closed"`, `{}`, ""},
		{`[{"Topic": "a", "v": 1}, {"Topic": "b"}]`, `[{"Topic": "b"}, {"Topic": "a", "v": 1}]`, ", the order"},
		{`[{"Topic": "a"}, {"Topic": "b", "v": 1}]`, `[{"Topic": "b", "v": 2}]`, `[Topic="a"] [Topic="b"].v`},
		{`[{"Topic": "a"}, {"Topic": "a"}]`, `[{"Topic": "a"}]`, `[1]`},
		{`1`, `"1"`, ""},
	} {
		want, _, err1 := parseTree(c.want)
		got, _, err2 := parseTree(c.got)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		var at []string
		all := differences("", want, got)
		for _, d := range all {
			at = append(at, d.path)
		}
		same := c.want == c.got || c.at == "" && strings.HasPrefix(c.want, `{"a": 1, "b"`)
		if strings.Join(at, " ") != c.at || (len(all) == 0) != same {
			t.Errorf("%s against %s: %v", c.want, c.got, all)
		}
	}
}

// What is rendered is read back as the same tree.
func TestTreeRoundTrip(t *testing.T) {
	var tree *rapid.Generator[any]
	tree = rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "b")
		case 2:
			return number(rapid.Int64().Draw(t, "n"))
		case 3, 4:
			return rapid.String().Draw(t, "s")
		case 5:
			l := list{}
			for range rapid.IntRange(0, 4).Draw(t, "len") {
				l = append(l, tree.Draw(t, "e"))
			}
			return l
		}
		o := &object{}
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			o.set(rapid.StringMatching("[A-Za-z]{1,30}").Draw(t, "name"), tree.Draw(t, "v"))
		}
		return o
	})
	rapid.Check(t, func(t *rapid.T) {
		v := tree.Draw(t, "tree")
		text := FormatRecording([]Answer{{3, "Metadata 1", v}, {4, "raw", "closed"}})
		back, err := ParseRecording(text)
		if err != nil || len(back) != 2 || back[0].Step != 3 || back[0].Title != "Metadata 1" || !equal(back[0].Tree, v) || back[1].Tree != "closed" {
			t.Fatalf("%v: %+v\n%s", err, back, text)
		}
	})
}

func TestEscapeBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		back, err := unescapeBytes(escapeBytes(b))
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x: %x, %v", b, back, err)
		}
	})
}

// A request built from JSON is what kmsg writes for the same struct.
func TestBuildRequest(t *testing.T) {
	fields, _, err := parseTree(`{"Topics": [{"Topic": "a", "UnknownTags": {"7": "%01"}}, {"TopicID": "000102030405060708090a0b0c0d0e0f", "Topic": null}], "AllowAutoTopicCreation": true}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := buildRequest(3, 12, fields.(*object), "c", 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = 12, true
	a, b := kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic()
	a.Topic = kmsg.StringPtr("a")
	a.UnknownTags.Set(7, []byte{1})
	for i := range b.TopicID {
		b.TopicID[i] = byte(i)
	}
	req.Topics = append(req.Topics, a, b)
	want := kmsg.NewRequestFormatter(kmsg.FormatterClientID("c")).AppendRequest(nil, req, 5)
	if !bytes.Equal(got.bytes, want) {
		t.Errorf("got  %x\nwant %x", got.bytes, want)
	}
	for text, want := range map[string]string{
		`{"Topix": []}`:                            "has no field Topix",
		`{"Topics": 3}`:                            "want a list",
		`{"Topics": [{"TopicID": "00"}]}`:          "32 hexadecimal digits",
		`{"AllowAutoTopicCreation": 1}`:            "does not fit",
		`{"@header": {"cut": 1000}}`:               "the frame has",
		`{"@header": {"size": 1}}`:                 "@header.size",
		`{"Topics": [{"UnknownTags": {"x": ""}}]}`: "NUMBER",
	} {
		fields, _, err := parseTree(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := buildRequest(3, 12, fields.(*object), "c", 5, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// The fields that a version has are found out by trying; here are some whose
// versions are known.
func TestPlan(t *testing.T) {
	for _, c := range []struct {
		key, version int16
		want         string
	}{
		{3, 0, "Brokers Topics"},
		{3, 1, "Brokers ControllerID Topics"},
		{3, 13, "ThrottleMillis Brokers ClusterID ControllerID Topics ErrorCode"},
		{0, 9, "Topics ThrottleMillis Brokers"},
		{18, 0, "ErrorCode ApiKeys"},
		{18, 3, "ErrorCode ApiKeys ThrottleMillis SupportedFeatures FinalizedFeaturesEpoch FinalizedFeatures ZkMigrationReady"},
		{10, 3, "ThrottleMillis ErrorCode ErrorMessage NodeID Host Port"},
		{10, 4, "ThrottleMillis Coordinators"},
	} {
		var names []string
		for _, f := range planOf(c.key, c.version).fields {
			names = append(names, f.name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s %d: %s, want %s", kmsg.NameForKey(c.key), c.version, got, c.want)
		}
	}
}

// Unknown tags, trailing bytes and what is cut short show.
func TestDecodeAnswer(t *testing.T) {
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.Version, resp.ErrorCode = 4, 25
	plain := append([]byte{0}, resp.AppendTo(nil)...)
	resp.UnknownTags.Set(3, []byte("a"))
	tagged := append([]byte{1, 9, 1, 'x'}, resp.AppendTo(nil)...)
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{plain, `{"ThrottleMillis": 0, "ErrorCode": "UNKNOWN_MEMBER_ID"}`},
		{tagged, `{"@header": {"9": "x"}, "ThrottleMillis": 0, "ErrorCode": "UNKNOWN_MEMBER_ID", "UnknownTags": {"3": "a"}}`},
		{append(plain, 7), `{"ThrottleMillis": 0, "ErrorCode": "UNKNOWN_MEMBER_ID", "@bytes": "0000000000190007"}`},
		{plain[:4], `{"@bytes": "00000000", "@error": "cut short"}`},
		{nil, `{"@bytes": ""}`},
	} {
		tree := newNormaliser("h:1", "s", time.Now()).tree(decodeAnswer(12, 4, c.b, nil))
		if got := oneLine(tree); !strings.HasPrefix(got, c.want[:len(c.want)-1]) {
			t.Errorf("%x: %s, want %s", c.b, got, c.want)
		}
	}
}

// One answer with everything that is normalised, against a golden file.
func TestNormaliseAndRenderGolden(t *testing.T) {
	started := time.Now()
	n := newNormaliser("127.0.0.1:9092", "x1234567", started)
	n.bind("t.id", "TopicID", id("000102030405060708090a0b0c0d0e0f"))
	text := func(s string) any {
		v, _, err := parseTree(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	tree := text(`{"Brokers": [{"NodeID": 2, "Host": "127.0.0.1", "Port": 9092}, {"NodeID": 1, "Host": "elsewhere", "Port": 1}],
		"ClusterID": "abc", "ErrorCode": 3, "ErrorMessage": "x", "Nothing": null, "Empty": [], "Documentation": "", "ProducerID": 7, "Unset": {"ProducerID": -1, "SessionID": 0},
		"Topics": [{"Topic": "u-x1234567", "Partition": 10}, {"Topic": "t-x1234567", "Partition": 9}, {"Topic": "t-x1234567", "Partition": 10}],
		"MemberID": "main-11111111-2222-3333-4444-555555555555", "LeaderID": "main-11111111-2222-3333-4444-555555555555", "Other": "b-21111111-2222-3333-4444-555555555555"}`).(*object)
	tree.set("TopicID", id("000102030405060708090a0b0c0d0e0f"))
	tree.set("OtherID", id("100102030405060708090a0b0c0d0e0f"))
	tree.set("NoID", id("00000000000000000000000000000000"))
	tree.set("Chosen", list{number(n.clock), number(n.clock + 5), number(n.clock - 5)})
	tree.set("Taken", number(started.UnixMilli()))
	batch, err := (&setter{clock: n.clock}).bytes(text(`{"batch": {"codec": "gzip", "producer": 7, "epoch": 0, "sequence": 3, "records": [{"key": "k", "value": null, "headers": [["h", "%00"]]}, "v"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	tree.set("RecordBatches", decodeBatches(append(batch, batch[:30]...), map[string]bool{string(batch[61:]): true}))
	n.sort(3, tree)
	got := renderTree(n.tree(tree)) + "\n"
	file := filepath.Join("testdata", "normalised.golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%v: got\n%s", err, got)
	}
}

// standIn is a broker that answers each frame by what reply makes of it.
func standIn(t *testing.T, reply func(key int16, correlation uint32) []byte) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					var head [12]byte
					if _, err := readFull(c, head[:]); err != nil {
						return
					}
					rest := make([]byte, binary.BigEndian.Uint32(head[:])-8)
					if _, err := readFull(c, rest); err != nil {
						return
					}
					b := reply(int16(binary.BigEndian.Uint16(head[4:])), binary.BigEndian.Uint32(head[8:]))
					if b == nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func readFull(c net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := c.Read(b[n:])
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

func framed(correlation uint32, body ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, correlation)
	return append(b, body...)
}

const conversation = `# Heartbeats of a member that is not there.
name $g
1 Heartbeat 0 {"Group": "$g", "Generation": 1, "MemberID": "m"}
2 Heartbeat 0 {"Group": "$g", "Generation": 1, "MemberID": "m"} &
3 pending 2
4 ListGroups 0
5 Heartbeat 0 {"Group": "$g", "Generation": 2, "MemberID": "m"} until ErrorCode = 0
`

// A difference of one bit in one answer is found, and named.
func TestMutatedRecordingFails(t *testing.T) {
	heartbeats := 0
	addr := standIn(t, func(key int16, correlation uint32) []byte {
		if key == 16 {
			return framed(correlation, 0, 0, 0, 0, 0, 0)
		}
		switch heartbeats++; heartbeats {
		case 1:
			return framed(correlation, 0, 25)
		case 2:
			return []byte{} // no answer: the next one comes first
		case 3:
			return framed(correlation, 0, 27)
		}
		return framed(correlation, 0, 0)
	})
	s, err := Parse("x", conversation)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := Run(addr, s)
	if err != nil {
		t.Fatal(err)
	}
	want := `
1 Heartbeat 0
{"ErrorCode": "UNKNOWN_MEMBER_ID"}

3 pending 2
"pending"

4 ListGroups 0
{"ErrorCode": 0, "Groups": []}

5 Heartbeat 0
{"ErrorCode": 0}

2 Heartbeat 0
"no answer"
`
	recording := FormatRecording(answers)
	if recording != recordingHead+want {
		t.Fatalf("got %s", recording)
	}
	for from, to := range map[string]string{
		`UNKNOWN_MEMBER_ID`: `ILLEGAL_GENERATION`,
		`"Groups": []`:      `"Groups": null`,
		`"no answer"`:       `"closed"`,
		"\n2 Heart":         "\n6 Heart",
		`{"ErrorCode": 0}`:  `{"ErrorCode": 0, "ThrottleMillis": 0}`,
	} {
		mutated, err := ParseRecording(strings.Replace(recording, from, to, 1))
		if err != nil {
			t.Fatal(err)
		}
		if problems := s.Compare(mutated, answers); len(problems) == 0 {
			t.Errorf("%s for %s passes", to, from)
		}
	}
	if problems := s.Compare(answers, answers); problems != nil {
		t.Errorf("the same answers: %v", problems)
	}
}

// A differs line lets its value pass and no other, and must be needed.
func TestDiffers(t *testing.T) {
	recorded := []Answer{{1, "Heartbeat 0", &object{names: []string{"ErrorCode"}, values: []any{"UNKNOWN_MEMBER_ID"}}}}
	firn := func(code any) []Answer {
		return []Answer{{1, "Heartbeat 0", &object{names: []string{"ErrorCode"}, values: []any{code}}}}
	}
	for _, c := range []struct {
		line string
		got  []Answer
		want string
	}{
		{`differs 1 ErrorCode = "ILLEGAL_GENERATION" : so`, firn("ILLEGAL_GENERATION"), ""},
		{`differs 1 ErrorCode = "ILLEGAL_GENERATION" : so`, firn("UNKNOWN_MEMBER_ID"), "step 1"},
		{`differs 1 ErrorCode = "UNKNOWN_MEMBER_ID" : so`, firn("UNKNOWN_MEMBER_ID"), "not needed"},
		{`differs 1 Topics[0] = 1 : so`, firn("UNKNOWN_MEMBER_ID"), "nothing at the path"},
		{`differs 1 = "closed" : so`, []Answer{{1, "Heartbeat 0", "closed"}}, ""},
		{`differs 1 ErrorCode = absent : so`, []Answer{{1, "Heartbeat 0", &object{}}}, ""},
		{`ignore 1 ErrorCode : so`, firn("<ignored>"), ""},
		{`ignore 1 Topics : so`, firn("UNKNOWN_MEMBER_ID"), "nothing to ignore at step 1"},
		{`ignore * Topics : so`, firn("UNKNOWN_MEMBER_ID"), "nothing to ignore at any step"},
		{``, firn(number(0)), "step 1"},
		{``, nil, "no answer"},
	} {
		s, err := Parse("x", "# a\n1 Heartbeat 0\n"+c.line)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(s.Compare(recorded, c.got), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}

// A line is needed at each step that it names; with * at one of them.
func TestLinesNeededAtEachStep(t *testing.T) {
	answer := func(step int, fields ...string) Answer {
		o := &object{}
		for _, f := range fields {
			o.set(f, f)
		}
		return Answer{step, "Heartbeat 0", o}
	}
	recorded := []Answer{answer(1, "A"), answer(2, "A", "B")}
	for line, want := range map[string]string{
		`differs 1,2 B = absent : so`: "differs is not needed at step 1",
		`differs 2 B = absent : so`:   "",
		`differs * B = absent : so`:   "",
		`ignore 1,2 B : so`:           "nothing to ignore at step 1",
		`ignore 2 B : so`:             "",
		`ignore * B : so`:             "",
	} {
		s, err := Parse("x", "# a\n1 Heartbeat 0\n2 Heartbeat 0\n"+line)
		if err != nil {
			t.Fatal(err)
		}
		got := []Answer{answer(1, "A"), answer(2, "A")}
		if strings.HasPrefix(line, "ignore") {
			got[1].Tree = s.ignore(2, clone(recorded[1].Tree), func(int) {})
		}
		problems := strings.Join(s.Compare(recorded, got), "\n")
		if want == "" && problems != "" || !strings.Contains(problems, want) {
			t.Errorf("%s: %q, want %q", line, problems, want)
		}
	}
}

// Of what is ignored it shows whether there is anything.
func TestIgnoredEmptiness(t *testing.T) {
	s, err := Parse("x", "# a\n1 Heartbeat 0\nignore * [*] : so")
	if err != nil {
		t.Fatal(err)
	}
	got := s.ignore(1, list{nil, "", "0", list{}, list{"x"}, "x", number(0), true, &object{}}, nil)
	want := list{nil, "", "0", list{}, "<ignored>", "<ignored>", "<ignored>", "<ignored>", "<ignored>"}
	if !equal(got, want) {
		t.Errorf("got %s", oneLine(got))
	}
}

// What a broker does to a connection is an answer too.
func TestClosedAndWrongAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		reply func(key int16, correlation uint32) []byte
		want  string
	}{
		"closed":      {func(int16, uint32) []byte { return nil }, `"closed"`},
		"correlation": {func(_ int16, n uint32) []byte { return framed(n+9, 0, 0) }, `"an answer with another correlation id"`},
		"size":        {func(int16, uint32) []byte { return []byte{0, 0, 0, 1, 0, 0, 0, 1} }, `"an answer of 1 bytes"`},
		"silent":      {func(int16, uint32) []byte { return []byte{} }, `"no answer"`},
	} {
		s, err := Parse("x", "# a\n1 Heartbeat 0 {} within 200ms\n")
		if err != nil {
			t.Fatal(err)
		}
		answers, err := Run(standIn(t, c.reply), s)
		if err != nil || len(answers) != 1 || oneLine(answers[0].Tree) != c.want {
			t.Errorf("%s: %+v, %v; want %s", name, answers, err, c.want)
		}
	}
}

// What follows a produce without acks says that the broker closed, also where
// it did so long before; then the connection is opened anew.
func TestClosedAfterProduceWithoutAcks(t *testing.T) {
	addr := standIn(t, func(key int16, correlation uint32) []byte {
		if key == 0 {
			return nil
		}
		return framed(correlation, 0, 0, 0, 0, 0, 0, 0, 0)
	})
	text := "# a\n1 Produce 3 {\"Acks\": 0}\n2 Metadata 0 {\"Topics\": []}\n3 Metadata 0 {\"Topics\": []}\n"
	for _, wait := range []string{"", "sleep 100ms\n"} {
		s, err := Parse("x/y", strings.Replace(text, "2 ", wait+"2 ", 1))
		if err != nil {
			t.Fatal(err)
		}
		answers, err := Run(addr, s)
		if err != nil {
			t.Fatal(err)
		}
		closedAt := map[int]bool{}
		for _, a := range answers {
			closedAt[a.Step] = a.Tree == "closed"
		}
		if !closedAt[1] || !closedAt[2] || closedAt[3] {
			t.Errorf("after %q the closed steps are %v", wait, closedAt)
		}
	}
}

// A batch that is built is one that the decoder reads, in every codec.
func TestBatchRoundTrip(t *testing.T) {
	for codec := range codecs {
		spec, _, err := parseTree(`{"batch": {"codec": "` + codec + `", "producer": 5, "epoch": 1, "sequence": 2, "records": 3}}`)
		if err != nil {
			t.Fatal(err)
		}
		s := &setter{clock: 1000}
		b, err := s.bytes(spec)
		if err != nil {
			t.Fatal(err)
		}
		got := oneLine(decodeBatches(b, map[string]bool{string(s.payloads[0]): true}))
		for _, want := range []string{`"ProducerID": 5`, `"FirstSequence": 2`, `"Payload": "as produced"`, `"Key": "k2", "Value": "v2"`, `"NumRecords": 3`} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %s in %s", codec, want, got)
			}
		}
		if strings.Contains(got, "CRC") || strings.Contains(got, "Bad") {
			t.Errorf("%s: %s", codec, got)
		}
	}
}

func TestRules(t *testing.T) {
	rules, err := ParseRules("# why\n\nProduce Topics[*].ErrorCode \"A\" -> * : one\nProduce . \"closed\" -> nothing : two\nFetch A N -> 0 : three\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ api, path, kafka, firn, want string }{
		{"Produce", "Topics[*].ErrorCode", `"A"`, "0", "one"},
		{"Produce", "Topics[*].ErrorCode", `"B"`, "0", ""},
		{"Produce", "Topics[*].Other", `"A"`, "0", ""},
		{"Produce", "", `"closed"`, "nothing", "two"},
		{"Fetch", "", `"closed"`, "nothing", ""},
		{"Fetch", "A", "17", "0", "three"},
		{"Fetch", "A", "1", "0", ""},
	} {
		got := ""
		if r := rules.allow(c.api, c.path, c.kafka, c.firn); r != nil {
			got = r.reason
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	for _, bad := range []string{"Produce A B -> C", "Produce A -> B : x", "Produce A B C : x", "Produce A B -> C : "} {
		if _, err := ParseRules(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// What needs a line that is gone goes with it.
func TestWithout(t *testing.T) {
	lines := []string{"name $g $h", "topic $t", "1 A {\"Group\": \"$g\"}", "let m = 1 MemberID", "2 B {\"M\": \"$m\"} &", "await 2", "3 C {\"T\": \"$t.id\", \"N\": $(m+1)}", "4 D {\"Group\": \"$h\"}"}
	for _, c := range []struct {
		from, to int
		want     []int
	}{
		{7, 8, []int{0, 1, 2, 3, 4, 5, 6}},
		{2, 3, []int{0, 1, 7}},
		{1, 2, []int{0, 2, 3, 4, 5, 7}},
		{4, 5, []int{0, 1, 2, 3, 6, 7}},
		{0, 1, []int{1, 7}},
	} {
		var want []string
		for _, i := range c.want {
			want = append(want, lines[i])
		}
		if got := without(lines, c.from, c.to); !reflect.DeepEqual(got, want) {
			t.Errorf("without %q: %q", lines[c.from], got)
		}
	}
}

// A difference that depends on one earlier request shrinks to the two of them;
// one that does not show again is no scenario.
func TestShrink(t *testing.T) {
	// Two requests of one connection, ListGroups and then Heartbeat.
	broker := func(wrong uint16) string {
		var before sync.Map // connections differ by their order: correlation ids count
		return standIn(t, func(key int16, correlation uint32) []byte {
			if key == 16 {
				before.Store(correlation+1, true)
				return framed(correlation, 0, 0, 0, 0, 0, 0)
			}
			if _, bad := before.LoadAndDelete(correlation); bad {
				return framed(correlation, byte(wrong>>8), byte(wrong))
			}
			return framed(correlation, 0, 0)
		})
	}
	kafka, firn := broker(25), broker(27)
	lines := []string{"name $g $h", "1 Heartbeat 0", "2 Heartbeat 0", "3 Heartbeat 0 {\"Group\": \"$g\"}", "let e = 3 ErrorCode", "4 ListGroups 0", "5 Heartbeat 0", "6 Heartbeat 0"}
	rules := &Rules{}
	found := Replay(kafka, firn, lines, rules)
	if found == nil || found.Signature != `Heartbeat | ErrorCode | "UNKNOWN_MEMBER_ID" | "REBALANCE_IN_PROGRESS"` || found.Request != "5 Heartbeat 0" {
		t.Fatalf("found %+v", found)
	}
	small := Shrink(kafka, firn, found, rules, 10*time.Second)
	if small == nil || !reflect.DeepEqual(small.Lines, []string{"4 ListGroups 0", "5 Heartbeat 0"}) {
		t.Fatalf("shrunk to %+v", small)
	}
	if _, err := Parse("found/x", small.ScenarioText()); err != nil {
		t.Errorf("%v in\n%s", err, small.ScenarioText())
	}
	if again := Shrink(kafka, kafka, found, rules, 10*time.Second); again != nil {
		t.Errorf("two brokers that are the same shrink to %+v", again)
	}
	allowed, err := ParseRules("Heartbeat ErrorCode * -> * : so")
	if err != nil {
		t.Fatal(err)
	}
	if got := Replay(kafka, firn, lines, allowed); got != nil {
		t.Errorf("a rule allows it, and it is found: %+v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(conversation)
	f.Add("# a\n1 raw 00 within 1s\ndiffers 1 A[B=1].C = {\"d\": []} : so\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("x", text)
		if err == nil && len(s.titles) == 0 {
			t.Fatal("a scenario without steps")
		}
	})
}
