package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// setStraysAside moves folders out of the way that hold no replica of this broker
// by img: what was deleted or moved to others while it was down, or something
// worse. They are kept, since guessing wrong would lose data. Those whose removal
// had begun are deleted.
func (t *topics) setStraysAside(img *metastore.Image) error {
	names, err := os.ReadDir(t.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, n := range names {
		if !n.IsDir() {
			continue // not ours
		}
		folders, err := os.ReadDir(filepath.Join(t.dir, n.Name()))
		if err != nil {
			return err
		}
		for _, f := range folders {
			id, p, ok := partitionFolder(f.Name())
			topic := img.TopicIDs[id]
			if !ok || topic != nil && int(p) < len(topic.Partitions) && slices.Contains(topic.Partitions[p].Replicas, t.node) {
				continue
			}
			if from := filepath.Join(t.dir, n.Name(), f.Name()); commitlog.Removing(from) {
				if err := commitlog.RemoveFolder(disk.Real(), from); err != nil {
					return err
				}
				continue
			}
			to, err := t.setAside(n.Name(), f.Name())
			if err != nil {
				return err
			}
			why := "its topic no longer exists"
			if topic != nil {
				why = "its partition has its replicas on other brokers"
			}
			t.log.Warn("a folder was set aside; delete it if nothing in it is missed", "topic", n.Name(), "folder", to, "because", why)
		}
		os.Remove(filepath.Join(t.dir, n.Name())) // succeeds when nothing is left in it
	}
	return nil
}

// partitionFolder takes apart the name of a partition's folder.
func partitionFolder(name string) (record.TopicID, record.PartitionID, bool) {
	number, hexID, ok := strings.Cut(name, "-")
	p, err := strconv.ParseUint(number, 10, 31)
	if !ok || err != nil {
		return record.TopicID{}, 0, false
	}
	id, err := record.ParseTopicID(hexID)
	return id, record.PartitionID(p), err == nil
}

// setAside moves logs/TOPIC/FOLDER to stray/TOPIC/FOLDER, or FOLDER.1 and so
// on when one of that name was set aside before.
func (t *topics) setAside(topic, folder string) (to string, err error) {
	from := filepath.Join(t.dir, topic, folder)
	base := filepath.Join(filepath.Dir(t.dir), "stray", topic, folder)
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return "", err
	}
	to = base
	for n := 1; ; n++ {
		_, err := os.Lstat(to)
		if errors.Is(err, os.ErrNotExist) {
			return to, os.Rename(from, to)
		}
		if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s.%d", base, n)
	}
}
