package broker

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// What the metadata does not have on this broker is kept out of the way, unless
// it was being removed; what it has here stays.
func TestStrays(t *testing.T) {
	const node = 3
	here, gone := record.TopicID{7}, record.TopicID{8}
	topic := &metastore.Topic{Name: "t", ID: here, Partitions: []metastore.Partition{
		{ID: 0, Replicas: []record.BrokerID{1, node}},
		{ID: 1, Replicas: []record.BrokerID{1, 2}},
		{ID: 2, Replicas: []record.BrokerID{1, 2}},
		{ID: 3, Replicas: []record.BrokerID{1}, Adding: []record.BrokerID{node}},
	}}
	topic.Partitions[3].Replicas = append(topic.Partitions[3].Replicas, node) // those that are added are among them
	img := &metastore.Image{TopicIDs: map[record.TopicID]*metastore.Topic{here: topic}}
	dir := t.TempDir()
	ts := &topics{dir: filepath.Join(dir, "logs"), node: node, log: slog.New(slog.DiscardHandler)}
	for folder, files := range map[string][]string{
		"t/0-" + here.Hex():  {"0.log", "removed"}, // opening it finishes that
		"t/1-" + here.Hex():  {"0.log"},
		"t/2-" + here.Hex():  {"5.log", "removed"},
		"t/3-" + here.Hex():  {"0.log"},
		"t/9-" + here.Hex():  {"0.log"},
		"t/note":             {"x"},
		"u/0-" + gone.Hex():  {"0.log"},
		"u/1-" + gone.Hex():  {"removed"},
		"u/-1-" + gone.Hex(): {"0.log"},
	} {
		for _, f := range files {
			path := filepath.Join(ts.dir, filepath.FromSlash(folder), f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := ts.setStraysAside(img); err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string][]string{
		"logs":  {"t/0-" + here.Hex(), "t/3-" + here.Hex(), "t/note", "u/-1-" + gone.Hex()},
		"stray": {"t/1-" + here.Hex(), "t/9-" + here.Hex(), "u/0-" + gone.Hex()},
	} {
		var got []string
		found, err := filepath.Glob(filepath.Join(dir, where, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, _ := filepath.Rel(filepath.Join(dir, where), f)
			got = append(got, filepath.ToSlash(rel))
		}
		slices.Sort(got)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("in %s: %v, want %v", where, got, want)
		}
	}
}
