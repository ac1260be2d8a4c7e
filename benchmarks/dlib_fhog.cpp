// dlib's fhog behind a C function, for bench_descriptors.py, which compiles this where dlib's headers are installed.
#include <dlib/image_transforms/fhog.h>

#include <dlib/array2d.h>

extern "C" void dlib_fhog(const float* pixels, long height, long width) {
    static dlib::array2d<float> image;  // both keep their memory from call to call, as VLFeat's object does
    static dlib::array<dlib::array2d<float>> planes;
    image.set_size(height, width);
    for (long y = 0; y < height; ++y) {
        for (long x = 0; x < width; ++x) {
            image[y][x] = pixels[y * width + x];
        }
    }
    dlib::extract_fhog_features(image, planes, 8);
}
