package api

import "golang.org/x/sys/unix"

// diskSpace gives the size of dir's file system and how much of it this
// process may still fill, in bytes.
func diskSpace(dir string) (total, usable int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	block := st.Frsize
	if block == 0 {
		block = st.Bsize
	}
	return int64(st.Blocks) * block, int64(st.Bavail) * block, nil
}
