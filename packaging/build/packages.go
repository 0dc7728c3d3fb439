package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // formats
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// packages makes a deb and an rpm for each architecture, as packaging/nfpm.yaml
// says, out of the binaries in dir and the texts in stage.
func (r *release) packages(dir, stage string) error {
	for _, arch := range arches {
		for _, format := range []string{"deb", "rpm"} {
			if err := r.pack(format, arch, filepath.Join(dir, r.binaryName(arch)), stage, dir); err != nil {
				return fmt.Errorf("%s of %s: %w", format, arch, err)
			}
		}
	}
	return nil
}

// pack makes one package in dir.
func (r *release) pack(format, arch, binary, stage, dir string) (err error) {
	values := map[string]string{
		"ROOT":    r.root,
		"STAGE":   stage,
		"BINARY":  binary,
		"ARCH":    arch,
		"VERSION": r.packageVersion,
	}
	missing := ""
	config, err := nfpm.ParseFileWithEnvMapping(filepath.Join(r.root, "packaging", "nfpm.yaml"), func(name string) string {
		v, ok := values[name]
		if !ok && name != "NFPM_PASSPHRASE" && name != "NFPM_DEB_PASSPHRASE" && name != "NFPM_RPM_PASSPHRASE" && name != "NFPM_APK_PASSPHRASE" && name != "NFPM_MSIX_PASSPHRASE" {
			missing = name
		}
		return v
	})
	if err != nil {
		return err
	}
	if missing != "" {
		return fmt.Errorf("packaging/nfpm.yaml asks for ${%s}, which the build does not have", missing)
	}
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	info.MTime = r.when
	// Scripts are the one thing in which nfpm expands no variables.
	for _, s := range []*string{&info.Scripts.PostInstall, &info.Scripts.PreRemove, &info.Scripts.PostRemove} {
		if *s != "" {
			*s = filepath.Join(r.root, *s)
		}
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, packager.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return packager.Package(info, f)
}
