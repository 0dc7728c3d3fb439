package clients

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firnlog/firn/test/clients/bytewise"
)

var javaClassPath = flag.String("java-classpath", "", "record testdata/java-produce anew with the Java producer on this class path")

// TestRecordJavaProducer writes testdata/java-produce: what Kafka's console
// producer, which is its Java producer, sends in each codec. `make record-java`
// runs it; otherwise it is skipped, since it needs Java.
func TestRecordJavaProducer(t *testing.T) {
	if *javaClassPath == "" {
		t.Skip("it is for make record-java")
	}
	b := bytewise.Start(t)
	for _, codec := range codecs {
		for _, idempotent := range []bool{true, false} {
			name := codec
			if !idempotent {
				name += "-acks-1"
			}
			b.Topic(t, name, false)
			acks := map[bool]string{true: "all", false: "1"}[idempotent]
			cmd := exec.CommandContext(limit(t), "java", "-Xmx128m", "-cp", *javaClassPath, "org.apache.kafka.tools.ConsoleProducer",
				"--bootstrap-server", b.Addr, "--topic", name, "--compression-codec", codec, "--batch-size", "4096", "--request-required-acks", acks,
				"--command-property", fmt.Sprint("enable.idempotence=", idempotent),
				"--reader-property", "parse.key=true", "--reader-property", "parse.headers=true", "--reader-property", "null.marker=NULL")
			cmd.Stdin = strings.NewReader(consoleInput())
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "ERROR") {
				t.Fatalf("console producer: %v\n%s", err, out)
			}
			frames, err := b.Tap.Take()
			if err != nil || len(frames) == 0 {
				t.Fatalf("%s: %d requests, %v", name, len(frames), err)
			}
			var file []byte
			for _, f := range frames {
				file = binary.BigEndian.AppendUint32(file, uint32(len(f)))
				file = append(file, f...)
			}
			if err := os.WriteFile(filepath.Join("testdata", "java-produce", name+".bin"), file, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// consoleInput is what the console producer reads: headers, key and value per
// line.
func consoleInput() string {
	var b strings.Builder
	for i, n := range []int{0, 1, 62, 63, 64, 65, 300, 3000, 8191, 8192} {
		headers := []string{"NULL", "h:1", "h:1,h:again,empty:", "long:" + strings.Repeat("x", n%200)}[i%4]
		key := []string{"NULL", "key " + fmt.Sprint(i), strings.Repeat("k", n%150)}[i%3]
		value := strings.Repeat("firn ", n/5) + strings.Repeat(".", n%5)
		fmt.Fprintf(&b, "%s\t%s\t%s\n", headers, key, value)
	}
	for i := range 60 {
		fmt.Fprintf(&b, "NULL\tk%d\tvalue %d\n", i%7, i*i)
	}
	return b.String()
}
