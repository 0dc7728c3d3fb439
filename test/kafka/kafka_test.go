package kafka_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/firnlog/firn/test/kafka"
)

// TestStart needs Java: it runs where the environment says that Kafka may be
// started, and is skipped in `make test`.
func TestStart(t *testing.T) {
	if os.Getenv("FIRNDEV_KAFKA") == "" {
		t.Skip("FIRNDEV_KAFKA is not set")
	}
	b, err := kafka.Start(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	tool, err := kafka.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", b.Addr, "--create", "--topic", "t")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pid := b.Pid()
	b.Stop()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("Kafka is still there: %v", err)
	}
}
