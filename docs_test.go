package firn_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/broker/wire"
)

var update = flag.Bool("update", false, "write the generated pages of docs/ anew")

// TestGeneratedDocs keeps the pages that are made from code equal to the code.
func TestGeneratedDocs(t *testing.T) {
	for path, want := range map[string]string{
		"docs/compatibility.md": compatibilityPage(t),
		"docs/topic-configs.md": topicConfigsPage(),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, []byte(want)) {
			t.Errorf("%s is not what the code says; write it anew: go test . -run TestGeneratedDocs -update", path)
		}
	}
}

// unanswered are the requests that Apache Kafka 4.3.1's brokers advertise and
// a Firn broker does not, with the versions that Kafka answers, by reason.
var unanswered = []struct {
	reason string
	keys   []int16
	of     []string
}{
	{"transactions, a later step", []int16{24, 25, 26, 27, 28, 65, 66}, []string{"0–5", "0–4", "0–5", "1–2", "0–5", "0", "0–2"}},
	{"security, a later step", []int16{17, 29, 30, 31, 36, 38, 39, 40, 41, 50, 51}, []string{"0–1", "1–3", "1–3", "1–3", "0–2", "1–3", "1–2", "1–2", "1–3", "0", "0"}},
	{"quotas, a later step", []int16{48, 49}, []string{"0–1", "0–1"}},
	{"the new group protocol (KIP-848), a later step", []int16{68, 69}, []string{"0–1", "0–1"}},
	{"share and streams groups, a later step", []int16{76, 77, 78, 79, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92}, []string{"1", "1", "1–2", "1–2", "0", "0", "0–1", "0", "0–1", "0", "0", "0–1", "0", "0"}},
}

// The part of docs/compatibility.md that is made from code stands between
// these lines; what was run by hand, and with which outcome, is written by hand.
const (
	fromCode = "<!-- made from code: go test . -run TestGeneratedDocs -update -->\n"
	byHand   = "<!-- written by hand from here -->\n"
)

// compatibilityPage gives the page as it is, with the tables of requests anew.
func compatibilityPage(t *testing.T) string {
	page, err := os.ReadFile("docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), fromCode)
	_, after, ok2 := strings.Cut(rest, byHand)
	if !ok || !ok2 {
		t.Fatal("docs/compatibility.md has lost the lines between which its tables stand")
	}
	return before + fromCode + requestTables(t) + byHand + after
}

func requestTables(t *testing.T) string {
	notes := map[int16]string{
		0:  "0–2 are advertised, as librdkafka wants it, and refused, as Kafka does; no transactional producers",
		1:  "consumers; no follower fetches yet",
		10: "group coordinators",
		22: "idempotent producers; a transactional id is refused",
		71: "Kafka lists it, and 72, in ApiVersions only with a reporter that takes telemetry",
		55: "members of etcd: their revisions as offsets, etcd's ids of them as folder ids, every broker's addresses as nodes",
		64: "only a broker that is gone, that no partition names and that is no member of etcd; Kafka takes any",
		72: "two connections with one client instance id are one client, as in Kafka",
		80: "lets a member of etcd in that was removed; it joins when its broker starts",
		81: "members of etcd, learners too; refused where too few voters would be left that answer",
	}
	var b strings.Builder
	b.WriteString("\n| key | request | versions | flexible from | |\n|---|---|---|---|---|\n")
	answered := map[int16]bool{}
	for _, v := range wire.Supported() {
		answered[v.Key] = true
		flexible := "–"
		for req := kmsg.RequestForKey(v.Key); ; req.SetVersion(req.GetVersion() + 1) {
			if req.IsFlexible() {
				flexible = fmt.Sprint(req.GetVersion())
				break
			}
			if req.GetVersion() >= v.Max {
				break
			}
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", v.Key, name(v.Key), versions(v.Min, v.Max), flexible, notes[v.Key])
	}
	b.WriteString("\nThese are all versions of Apache Kafka 4.3 for one broker. A request of any other key or version closes the connection, except ApiVersions, which is answered with error 35 and its own range (KIP-511). What Kafka 4.3.1 answers and Firn does not:\n\n| key | request | Kafka's versions | why not |\n|---|---|---|---|\n")
	for _, u := range unanswered {
		for i, key := range u.keys {
			if answered[key] {
				t.Errorf("request %d is answered now: take it out of unanswered", key)
			}
			fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", key, name(key), u.of[i], u.reason)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// name is Kafka's name of a request; capitals aside, kmsg has another for one.
func name(key int16) string {
	if key == 45 {
		return "AlterPartitionReassignments"
	}
	return kmsg.NameForKey(key)
}

func versions(lo, hi int16) string {
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d–%d", lo, hi)
}

func topicConfigsPage() string {
	var b strings.Builder
	b.WriteString("# Topic configs\n\nEvery topic config that Kafka 4.3 lists. Each is taken, checked as Kafka does, changed while the topic is in use, and acted on; the last column says where Firn does so in another way than Kafka, or has nothing to act on. Other values, other names and combinations that Kafka refuses are refused with INVALID_CONFIG and the reason. Made from the code's own table.\n\n")
	b.WriteString("| name | type | default | values | meaning | in Firn |\n|---|---|---|---|---|---|\n")
	for _, d := range topicconfig.Definitions() {
		values := d.Valid
		if d.Type == topicconfig.Boolean {
			values = "true, false"
		}
		def := d.Default
		if def == "" {
			def = "(empty)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s | %s | %s |\n", d.Name, d.Type, def, values, d.Doc, d.Firn)
	}
	return b.String()
}
