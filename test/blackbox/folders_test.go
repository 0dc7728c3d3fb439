package blackbox

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/test/firntest"
)

// deleteTopics deletes topics and fails the test if one cannot be deleted.
func deleteTopics(t *testing.T, b *firntest.Broker, names ...string) {
	t.Helper()
	ctx, cancel := firntest.Context(t)
	defer cancel()
	res, err := kadm.NewClient(b.Client()).DeleteTopics(ctx, names...)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		t.Fatalf("delete %v: %v", names, err)
	}
}

// folders lists the partition folders below a folder of logs, as TOPIC/FOLDER.
func folders(t *testing.T, dir string) (list []string) {
	t.Helper()
	topics, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, topic := range topics {
		parts, err := os.ReadDir(filepath.Join(dir, topic.Name()))
		if err != nil {
			continue // a file, or gone meanwhile
		}
		if len(parts) == 0 {
			list = append(list, topic.Name()+"/")
		}
		for _, p := range parts {
			list = append(list, topic.Name()+"/"+p.Name())
		}
	}
	return list
}

// A partition whose files are damaged does not open; deleting its topic
// removes its folder all the same, and the name can be used again.
func TestDeleteATopicThatDoesNotOpen(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("broken", 2)
	b.Kill()
	metas, err := filepath.Glob(filepath.Join(b.Data, "logs", "broken", "0-*", "partition.meta"))
	if err != nil || len(metas) != 1 {
		t.Fatalf("%v %v", metas, err)
	}
	if err := os.Remove(metas[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(metas[0], 0o755); err != nil { // a folder cannot be read as a file
		t.Fatal(err)
	}
	b.Start()
	if n := b.Metric("firn_broker_partition_open_failures_total"); n != 1 {
		t.Fatalf("%v partitions did not open, want 1: the test does not test what it should", n)
	}
	deleteTopics(t, b, "broken")
	firntest.Eventually(t, "no folder is left", func() error {
		if left := folders(t, filepath.Join(b.Data, "logs")); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	b.CreateTopic("broken", 1)
	b.Stop()
}

// What lies among the logs and belongs to nobody is set aside or left alone,
// whatever it is called, and the broker starts.
func TestFoldersOfUnknownTopics(t *testing.T) {
	b := firntest.Start(t)
	b.CreateTopic("known", 1)
	b.Stop()
	logs := filepath.Join(b.Data, "logs")
	long := strings.Repeat("n", 249)
	folder := "2147483647-" + strings.Repeat("ab", 16)
	stray := func() {
		t.Helper()
		for _, topic := range []string{long, "known"} {
			if err := os.MkdirAll(filepath.Join(logs, topic, folder), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(logs, topic, folder, "data"), []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(logs, "note.txt"), []byte("not a topic"), 0o644); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		stray()
		b.Start()
		b.Stop()
		if got := folders(t, logs); len(got) != 1 || !strings.HasPrefix(got[0], "known/0-") {
			t.Errorf("round %d: among the logs: %v", round, got)
		}
	}
	for _, topic := range []string{long, "known"} {
		for _, f := range []string{folder, folder + ".1"} {
			if data, err := os.ReadFile(filepath.Join(b.Data, "stray", topic, f, "data")); string(data) != "precious" {
				t.Errorf("set aside: %q, %v", data, err)
			}
		}
	}
}

// Where a group's offsets are depends on the number of partitions: that of
// the topic counts, not a setting that was changed later.
func TestOffsetsSurviveAChangedNumberOfPartitions(t *testing.T) {
	b := firntest.New(t, "--set", "offsets.topic.num.partitions=11")
	b.Start()
	b.CreateTopic("read", 1)
	const groups = 20
	commit := kadm.Offsets{}
	commit.Add(kadm.Offset{Topic: "read", Partition: 0, At: 7, LeaderEpoch: -1})
	ctx, cancel := firntest.Context(t)
	defer cancel()
	adm := kadm.NewClient(b.Client())
	for i := range groups {
		if err := adm.CommitAllOffsets(ctx, fmt.Sprintf("g%d", i), commit); err != nil {
			t.Fatal(err)
		}
	}
	for _, parts := range []string{"3", "50"} {
		b.Stop()
		b.Args = []string{"--set", "offsets.topic.num.partitions=" + parts}
		b.Start()
		for i := range groups {
			got, err := adm.FetchOffsets(ctx, fmt.Sprintf("g%d", i))
			if err != nil {
				t.Fatal(err)
			}
			if o, ok := got.Lookup("read", 0); !ok || o.At != 7 {
				t.Errorf("set to %s: group g%d is at %v (found: %v), it committed 7", parts, i, o.At, ok)
			}
		}
	}
}

// With a store that cannot be reached the broker starts and works, and says
// what is wrong.
func TestStartWithoutTheStore(t *testing.T) {
	b := firntest.New(t, "--store", "s3://nowhere/x?endpoint=http://"+firntest.FreePort(t)+"&region=us-east-1&path_style=true")
	b.Env = []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test"}
	b.Start()
	b.CreateTopic("hot", 1, "remote.storage.enable", "true")
	ctx, cancel := firntest.Context(t)
	defer cancel()
	if err := b.Client().ProduceSync(ctx, &kgo.Record{Topic: "hot", Value: []byte("still here")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	firntest.Eventually(t, "log and status name the store", func() error {
		if !strings.Contains(b.Output(), "object store cannot be used") {
			return fmt.Errorf("not in the log")
		}
		resp, err := http.Get("http://" + b.HTTP + "/v1/tier/hot")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), "storeError") {
			return fmt.Errorf("%s %v", body, err)
		}
		return nil
	})
	if recs := b.ReadAll("hot", 0, 0); len(recs) != 1 || string(recs[0].Value) != "still here" {
		t.Errorf("%v", recs)
	}
	b.Stop()
}
