package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// TestPartitionIsOpenedLater: what did not open at the start is tried again,
// less and less often and with one line in the log, until it opens. The other
// partitions are served meanwhile.
func TestPartitionIsOpenedLater(t *testing.T) {
	dir := t.TempDir()
	b, _, stop := openBroker(t, dir, nil)
	results, rev, err := b.meta.CreateTopics(t.Context(), []metastore.TopicSpec{{Name: "t", Assignment: [][]record.BrokerID{{3}, {3}}}})
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	if err := b.topics.AwaitApplied(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	stop()
	metas, err := filepath.Glob(filepath.Join(dir, "logs", "t", "1-*", "partition.meta"))
	if err != nil || len(metas) != 1 {
		t.Fatal(metas, err)
	}
	away := metas[0] + "-away"
	if err := os.Rename(metas[0], away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(metas[0], 0o755); err != nil { // a folder cannot be read as a file
		t.Fatal(err)
	}

	failures, reopened := openFailures.Get(), partsReopened.Get()
	b, log, stop := openBroker(t, dir, nil)
	defer stop()
	check := func(what string, open bool) {
		t.Helper()
		missing := 1.0
		if open {
			missing = 0
		}
		if p, err := b.topics.Get("t", 1), b.topics.OpenError("t", 1); (p != nil) != open || (err == nil) != open {
			t.Errorf("%s: the partition is open: %v, the error %v\n%s", what, p != nil, err, log)
		}
		if b.topics.Get("t", 0) == nil || b.topics.OpenError("t", 0) != nil || b.topics.OpenError("t", 2) != nil || b.topics.OpenError("u", 1) != nil {
			t.Errorf("%s: the other partition is not open, or one that is not there has an error", what)
		}
		if got := notOpen.Get(); got != missing {
			t.Errorf("%s: the metric says that %v partitions are not open", what, got)
		}
	}
	waits := func() (pause time.Duration, armed bool) {
		b.topics.applying <- struct{}{}
		defer func() { <-b.topics.applying }()
		return b.topics.pause, b.topics.retry != nil
	}
	check("at the start", false)
	if pause, armed := waits(); pause != firstRetry || !armed {
		t.Errorf("the first retry comes after %v, %v", pause, armed)
	}
	for range 10 {
		b.topics.reopen()
	}
	check("tried again", false)
	if pause, armed := waits(); pause != lastRetry || !armed {
		t.Errorf("the last retry comes after %v, %v", pause, armed)
	}
	if err := os.Remove(metas[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, metas[0]); err != nil {
		t.Fatal(err)
	}
	setConfigs(t, b, "", map[string]string{"max.connections.per.ip": "9"})
	check("something else was changed", false)
	b.topics.reopen()
	check("repaired", true)
	if pause, armed := waits(); pause != 0 || armed {
		t.Errorf("with all open the next retry comes after %v, %v", pause, armed)
	}
	if f, r := openFailures.Get()-failures, partsReopened.Get()-reopened; f != 1 || r != 1 {
		t.Errorf("the metrics count %d failures and %d repaired, want one each", f, r)
	}
	if n := strings.Count(log.String(), "partition does not open"); n != 1 || !strings.Contains(log.String(), "partition is open now") {
		t.Errorf("%d lines say that it does not open:\n%s", n, log)
	}
}
