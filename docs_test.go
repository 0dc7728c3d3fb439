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
		"docs/protocol.md":      protocolPage(),
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

func protocolPage() string {
	var b strings.Builder
	b.WriteString("# Protocol\n\nWhat a broker answers, as ApiVersions advertises it. Made from the code's own table.\n\n")
	b.WriteString("| key | name | versions | |\n|---|---|---|---|\n")
	for _, v := range wire.Supported() {
		note := ""
		switch v.Key {
		case 0:
			note = "0–2 are advertised, as librdkafka wants it, and refused; no transactional producers"
		case 10:
			note = "group coordinators"
		case 22:
			note = "idempotent producers; a transactional id is refused"
		}
		fmt.Fprintf(&b, "| %d | %s | %d–%d | %s |\n", v.Key, kmsg.NameForKey(v.Key), v.Min, v.Max, note)
	}
	b.WriteString("\nA request of any other key or version closes the connection, except ApiVersions, which is answered with error 35 and its own range (KIP-511).\n")
	return b.String()
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
