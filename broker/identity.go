package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// identity says whose data folder it is; it is written once, at first start.
//
//	<data>/firn.json   {"version":1,"clusterId":"…","nodeId":1}
type identity struct {
	Version   int    `json:"version"` // of the folder's layout: 1
	ClusterID string `json:"clusterId"`
	NodeID    int32  `json:"nodeId"`
}

const layoutVersion = 1

// checkIdentity refuses a data folder of another cluster, node or layout, and
// marks a new one.
func checkIdentity(dir, clusterID string, nodeID int32) error {
	path := filepath.Join(dir, "firn.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeIdentity(path, identity{layoutVersion, clusterID, nodeID})
	}
	if err != nil {
		return err
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return fmt.Errorf("%s is damaged: %w; restore it from a backup, or use another data folder", path, err)
	}
	switch {
	case id.Version != layoutVersion:
		return fmt.Errorf("%s: the folder's layout is version %d, this firn knows %d: use the firn that wrote it, or upgrade", path, id.Version, layoutVersion)
	case id.ClusterID != clusterID:
		return fmt.Errorf("%s: the folder belongs to cluster %s, but its etcd says %s: the metadata was lost or replaced; restore %s", path, id.ClusterID, clusterID, filepath.Join(dir, "etcd"))
	case id.NodeID != nodeID:
		return fmt.Errorf("%s: the folder belongs to node %d, this broker is node %d: start it with its own id", path, id.NodeID, nodeID)
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
