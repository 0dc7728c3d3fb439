package blackbox

import (
	"bytes"
	"fmt"
	"os/exec"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/test/firntest"
)

// kcat runs Debian's kcat (librdkafka) against the broker.
func kcat(t *testing.T, b *firntest.Broker, stdin string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Fatal("kcat is not installed; `make test` installs it (Debian: apt-get install kcat)")
	}
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-b", b.Kafka}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("kcat %v: %v\n%s%s", args, err, out.String(), errs.String())
	}
	return out.String()
}

func lines(n int, format string) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, format+"\n", i)
	}
	return s.String()
}

func TestKcatProducesAndConsumes(t *testing.T) {
	b := firntest.Start(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "kcat-" + codec
			b.CreateTopic(topic, 1)
			in := lines(1000, "line %d of this topic")
			kcat(t, b, in, "-P", "-t", topic, "-z", codec, "-X", "acks=all")
			if out := kcat(t, b, "", "-C", "-t", topic, "-e", "-q"); out != in {
				t.Errorf("%d bytes produced, %d consumed", len(in), len(out))
			}
		})
	}
}

func TestKcatKeysHeadersTimestamps(t *testing.T) {
	b := firntest.Start(t)
	before := time.Now().UnixMilli()
	kcat(t, b, "k1=v1\nk2=v2\n", "-P", "-t", "auto-made", "-K", "=", "-H", "colour=blue", "-X", "enable.idempotence=true")
	out := kcat(t, b, "", "-C", "-t", "auto-made", "-e", "-q", "-f", "%k|%s|%h|%o\n")
	if want := "k1|v1|colour=blue|0\nk2|v2|colour=blue|1\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if out := kcat(t, b, "", "-C", "-t", "auto-made", "-e", "-q", "-o", fmt.Sprintf("s@%d", before)); out != "v1\nv2\n" {
		t.Errorf("from the time before: %q", out)
	}
	if out := kcat(t, b, "", "-C", "-t", "auto-made", "-e", "-q", "-o", "-1"); out != "v2\n" {
		t.Errorf("the last one: %q", out)
	}
	if out := kcat(t, b, "", "-Q", "-t", fmt.Sprintf("auto-made:0:%d", before)); !strings.Contains(out, "offset 0") {
		t.Errorf("query by time: %q", out)
	}
}

func TestKcatLists(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("listed", 4)
	out := kcat(t, b, "", "-L")
	for _, want := range []string{b.Kafka, `topic "listed" with 4 partitions`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestKcatGroup(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("grouped", 4)
	in := lines(400, "%d")
	kcat(t, b, in, "-P", "-t", "grouped")
	got := strings.Fields(kcat(t, b, "", "-G", "readers", "-c", "400", "-q", "-X", "auto.offset.reset=earliest", "grouped"))
	want := strings.Fields(in)
	sort.Strings(got)
	sort.Strings(want)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%d records came of %d", len(got), len(want))
	}
	// The first member committed as it left: a second one gets only what is new.
	kcat(t, b, "new\n", "-P", "-t", "grouped")
	if out := kcat(t, b, "", "-G", "readers", "-c", "1", "-q", "-X", "auto.offset.reset=earliest", "grouped"); out != "new\n" {
		t.Errorf("after a commit: %q", out)
	}
}
