package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// identity says whose data folder it is; it is written once, at first start.
//
//	<data>/firn.json   {"version":1,"clusterId":"…","nodeId":1,"diskId":"…","cacheId":"…"}
type identity struct {
	Version   int    `json:"version"` // of the folder's layout: 1
	ClusterID string `json:"clusterId"`
	NodeID    int32  `json:"nodeId"`
	DiskID    string `json:"diskId"`  // of the folder: another one has other bytes, or none
	CacheID   string `json:"cacheId"` // of what was not synced: another one since the machine was restarted
}

const layoutVersion = 1

// contents gives the ids of what a data folder holds, on its disk and in the
// page cache: new ones for a folder that has none yet, and for a page cache that
// went with the machine's restart. checkIdentity writes them, before anybody is
// told.
func contents(dir string, restarted bool) (disk, cache string, err error) {
	id, err := readIdentity(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", "", err
	}
	if id.DiskID == "" {
		id.DiskID = uuid.NewString()
	}
	if id.CacheID == "" || restarted {
		id.CacheID = uuid.NewString()
	}
	return id.DiskID, id.CacheID, nil
}

func readIdentity(dir string) (id identity, err error) {
	path := filepath.Join(dir, "firn.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(raw, &id); err != nil {
		return id, fmt.Errorf("%s is damaged: %w; restore it from a backup, or use another data folder", path, err)
	}
	return id, nil
}

// checkIdentity refuses a data folder of another cluster, node or layout, and
// marks a new one, or one whose contents have a new id.
func checkIdentity(dir, clusterID string, nodeID int32, disk, cache string, seeds []string) error {
	path := filepath.Join(dir, "firn.json")
	want := identity{layoutVersion, clusterID, nodeID, disk, cache}
	id, err := readIdentity(dir)
	if errors.Is(err, os.ErrNotExist) {
		return writeIdentity(path, want)
	}
	if err != nil {
		return err
	}
	switch {
	case id.Version != layoutVersion:
		return fmt.Errorf("%s: the folder's layout is version %d, this firn knows %d: use the firn that wrote it, or upgrade", path, id.Version, layoutVersion)
	case id.ClusterID != clusterID && len(seeds) > 0:
		return fmt.Errorf("%s: the folder belongs to cluster %s, and the members at %s are cluster %s: start this broker with the --seeds and --store of its cluster, or give it a data folder of its own", path, id.ClusterID, strings.Join(seeds, ","), clusterID)
	case id.ClusterID != clusterID:
		return fmt.Errorf("%s: the folder belongs to cluster %s, but its etcd says %s: the metadata was lost or replaced; restore %s", path, id.ClusterID, clusterID, filepath.Join(dir, "etcd"))
	case id.NodeID != nodeID:
		return fmt.Errorf("%s: the folder belongs to node %d, this broker is node %d: start it with its own id", path, id.NodeID, nodeID)
	case id != want:
		return writeIdentity(path, want)
	}
	return nil
}

// writeIdentity writes the file so that a crash leaves either none or all.
func writeIdentity(path string, id identity) error {
	raw, err := json.Marshal(id)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "firn.json.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	if _, err := f.Write(append(raw, '\n')); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
